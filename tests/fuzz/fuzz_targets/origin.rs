//! libFuzzer for `targets::origin`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::origin(data));
