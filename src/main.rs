//! The `wardcast` binary. All code is in the library; `wardcast::cli` runs the command line.

#![forbid(unsafe_code)]

use std::process::ExitCode;

/// mimalloc returns memory after bursts and is compact for many small allocations. docs/architecture.md has the
/// measurements.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    wardcast::cli::main()
}
