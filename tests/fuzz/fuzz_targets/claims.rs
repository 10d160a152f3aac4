//! libFuzzer for `targets::claims`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::claims(data));
