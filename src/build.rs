//! The build script. Compiles the Protobuf schema of the client protocol, and exports the commit of the build for
//! `--version` and the log. Without git, the variable `WARDCAST_COMMIT` names the commit.

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

/// Compiles the schema into OUT_DIR. The server writes Protobuf with the generated code, and tests read with it.
/// `protoc` is not needed.
fn compile_schema() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={SCHEMA}");
    let files = protox::compile([SCHEMA], ["src/protocol"])?;
    // `bytes` shares raw JSON instead of copying it. `btree_map` writes equal maps as equal bytes.
    prost_build::Config::new().bytes(["."]).btree_map(["."]).compile_fds(files)?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a build script has no configuration")]
fn export_commit() {
    println!("cargo::rerun-if-env-changed=WARDCAST_COMMIT");
    let from_git = checked_out_commit();
    let from_variable = env::var("WARDCAST_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = from_git.or(from_variable).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=WARDCAST_COMMIT={commit}");
}

/// Returns the commit that is checked out. Ignores a repository around this directory: its commits are not of these
/// sources.
fn checked_out_commit() -> Option<String> {
    // A directory, or a file in a worktree.
    let is_repository = Path::new(".git").exists();
    let commit = is_repository.then(|| git(&["rev-parse", "--short", "HEAD"])).flatten()?;
    let watched = ["HEAD", "packed-refs"].map(str::to_owned);
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in watched.into_iter().chain(branch) {
        let path = PathBuf::from(git(&["rev-parse", "--git-path", &name])?);
        // Cargo rebuilds each time if a watched path does not exist. A packed branch has no file: its folder is
        // watched, where the next commit creates one.
        if let Some(existing) =
            path.ancestors().find(|path| path.exists()).filter(|existing| *existing == path || name.contains('/'))
        {
            println!("cargo::rerun-if-changed={}", existing.display());
        }
    }
    Some(commit)
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}
