//! Runs a fuzz target with libFuzzer: the one that this program's file is named after. tests/fuzz/run names it.
#![no_main]
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "tests")]

use std::{env, path::Path, sync::LazyLock};

mod targets;

static TARGET: LazyLock<targets::FuzzTarget> = LazyLock::new(|| {
    let program = env::args_os().next().unwrap();
    let name = Path::new(&program).file_name().unwrap().to_str().unwrap();
    targets::TARGETS
        .iter()
        .find(|(target, _)| *target == name)
        .unwrap_or_else(|| panic!("no fuzz target is named {name}"))
        .1
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
