//! libFuzzer for `targets::channel`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::channel(data));
