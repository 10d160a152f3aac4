//! libFuzzer for `targets::protobuf`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::protobuf(data));
