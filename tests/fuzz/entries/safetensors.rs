//! libFuzzer's program for one target.

#![no_main]

libfuzzer_sys::fuzz_target!(init: convoy_fuzz::write_seeds(convoy_fuzz::safetensors::seeds), |data: &[u8]| convoy_fuzz::safetensors::run(data));
