//! libFuzzer for `targets::key_set`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::key_set(data));
