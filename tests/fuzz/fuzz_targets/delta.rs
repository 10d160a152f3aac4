//! libFuzzer for `targets::delta`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::delta(data));
