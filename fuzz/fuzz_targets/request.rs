//! A request as callers send it, read by a gateway and then by a worker.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_openai::fuzzing::request(data));
