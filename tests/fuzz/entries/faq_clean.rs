//! libFuzzer's program for one target.

#![no_main]

libfuzzer_sys::fuzz_target!(init: convoy_fuzz::write_seeds(convoy_fuzz::faq_clean::seeds), |data: &[u8]| convoy_fuzz::faq_clean::run(data));
