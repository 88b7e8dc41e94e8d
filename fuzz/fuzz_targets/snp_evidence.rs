//! An SNP report with its certificates, or a certificate or revocation list, through everything that reads it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_attest::fuzzing::snp_evidence(data));
