//! Bytes of a connection, read as frames and everything inside them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_wire::fuzzing::frame(data));
