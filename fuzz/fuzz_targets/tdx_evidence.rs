//! A TDX quote, or an answer of the collateral for one, through everything that reads it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_attest::fuzzing::tdx_evidence(data));
