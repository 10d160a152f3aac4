//! libFuzzer for `targets::logout_token`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::logout_token(data));
