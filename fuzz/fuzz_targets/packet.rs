//! The payload of a frame, and everything it can carry.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_wire::fuzzing::packet(data));
