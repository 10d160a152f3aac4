//! Compiles `wardcast.proto` into OUT_DIR: what Protobuf clients are told is written by the schema, and tests read it with the
//! same.

use std::error::Error;

const SCHEMA: &str = "src/protocol/wardcast.proto";

fn main() -> Result<(), Box<dyn Error>> {
    compile_schema()
}

/// No `protoc` is wanted on the machine that builds.
fn compile_schema() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=src/protocol/build.rs");
    println!("cargo::rerun-if-changed={SCHEMA}");
    let files = protox::compile([SCHEMA], ["src/protocol"])?;
    // Raw JSON is shared, not copied; maps are written in order, so that the same is always written the same.
    prost_build::Config::new().bytes(["."]).btree_map(["."]).compile_fds(files)?;
    Ok(())
}
