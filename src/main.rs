//! The `wardcast` binary: everything is in the library, `wardcast::cli` is its front.

#![forbid(unsafe_code)]

use std::process::ExitCode;

/// Steady after bursts and small for many little allocations; the figures are in docs/architecture.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    wardcast::cli::main()
}
