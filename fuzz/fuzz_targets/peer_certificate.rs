//! A peer's certificate in DER, through everything that is asked of it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_attest::fuzzing::peer_certificate(data));
