//! The evidence of NVIDIA GPUs, or a manifest, certificate or status for one, through everything that reads it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_attest::fuzzing::gpu_evidence(data));
