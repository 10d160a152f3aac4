//! Compiles the schema of Protobuf clients, and tells the program which commit it was built from, for `--version` and the log;
//! without git, `WARDCAST_COMMIT` does.

use std::{
    env,
    error::Error,
    path::{Path, PathBuf},
    process::Command,
};

const SCHEMA: &str = "src/protocol/wardcast.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=src/build.rs");
    export_commit();
    compile_schema()
}

/// Into OUT_DIR: what Protobuf clients are told is written by the schema, and tests read it with the same. No `protoc` is
/// wanted on the machine that builds.
fn compile_schema() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={SCHEMA}");
    let files = protox::compile([SCHEMA], ["src/protocol"])?;
    // Raw JSON is shared, not copied; maps are written in order, so that the same is always written the same.
    prost_build::Config::new().bytes(["."]).btree_map(["."]).compile_fds(files)?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a build has no configuration to be loaded")]
fn export_commit() {
    println!("cargo::rerun-if-env-changed=WARDCAST_COMMIT");
    let from_git = checked_out_commit();
    let from_variable = env::var("WARDCAST_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = from_git.or(from_variable).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=WARDCAST_COMMIT={commit}");
}

/// The commit that is checked out here. A repository around this one is not asked: it knows nothing of these sources.
fn checked_out_commit() -> Option<String> {
    // A worktree's is a file.
    let is_repository = Path::new(".git").exists();
    let commit = is_repository.then(|| git(&["rev-parse", "--short", "HEAD"])).flatten()?;
    let watched = ["HEAD", "packed-refs"].map(str::to_owned);
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in watched.into_iter().chain(branch) {
        let path = PathBuf::from(git(&["rev-parse", "--git-path", &name])?);
        // Watching what is not there would build anew each time. A branch that is packed gets a file in its folder with the
        // next commit.
        if let Some(there) =
            path.ancestors().find(|path| path.exists()).filter(|there| *there == path || name.contains('/'))
        {
            println!("cargo::rerun-if-changed={}", there.display());
        }
    }
    Some(commit)
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}
