//! The programs that are measured: where they are, and their versions.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::child_process::ChildProcess;
use crate::error::{Context, Result, fail};
use crate::{clock, http::quote};

/// How long a program may take to print its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is checked whether it has.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);
/// The name with which Centrifugo begins its version.
pub(crate) const CENTRIFUGO: &str = "Centrifugo";
/// What Go writes into a Centrifugo binary before the version of the module. `centrifugo version` prints v0.0.0 if it was
/// built with `go install`.
const GO_MODULE: &[u8] = b"github.com/centrifugal/centrifugo/v6\t";
/// The longest version that is looked for behind it.
const MAX_VERSION_BYTES: usize = 40;

/// A program.
pub(crate) struct Program {
    /// Its absolute path, or its name if it is looked for in PATH.
    pub(crate) path: PathBuf,
    /// Its version.
    pub(crate) version: String,
}

impl Program {
    /// Finds a program and asks for its version with `argument`. The answer begins with `name`.
    pub(crate) fn find(path: &Path, name: &str, argument: &str) -> Result<Self> {
        let is_in_path = path.components().count() == 1 && !path.exists();
        // Servers run in another folder.
        let path =
            if is_in_path { path.to_owned() } else { std::fs::canonicalize(path).context("finding the program")? };
        let (mut child, output) = ChildProcess::start_program(&path, |command| {
            command.arg(argument).current_dir("/");
        })?;
        let start = Instant::now();
        while !(output.has_ended() && child.has_ended()) {
            if start.elapsed() > VERSION_TIMEOUT {
                return fail(format!("`{argument}` did not end within {} s", VERSION_TIMEOUT.as_secs()));
            }
            clock::sleep(CHECK_INTERVAL);
        }
        let text = output.text();
        let first_line = text.lines().next().unwrap_or_default();
        let Some(version) = first_line.strip_prefix(name) else {
            let printed = quote(first_line.as_bytes());
            return fail(format!("this is not {name}: `{argument}` printed \"{printed}\""));
        };
        // Other binaries have none, and the search takes seconds in a large one.
        let module_version = (name == CENTRIFUGO).then(|| go_module_version(&path)).flatten();
        let version = module_version.unwrap_or_else(|| parse_version(version));
        Ok(Self { path, version })
    }
}

/// The version in a line such as `v6.9.1 (Go version: go1.26.8)` or `v=7.0.15 sha=0`.
fn parse_version(text: &str) -> String {
    let text = text.trim_start().trim_start_matches("v=").trim_start_matches('v');
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

/// The version of Centrifugo's Go module in a binary that contains it.
fn go_module_version(path: &Path) -> Option<String> {
    find_module_version(&std::fs::read(path).ok()?)
}

fn find_module_version(binary: &[u8]) -> Option<String> {
    let versions = binary.windows(GO_MODULE.len()).enumerate().filter(|(_, bytes)| *bytes == GO_MODULE);
    let mut versions = versions.filter_map(|(at, _)| {
        let start = at + GO_MODULE.len();
        let text = &binary[start..(start + MAX_VERSION_BYTES).min(binary.len())];
        let text = text.split(|byte| byte.is_ascii_whitespace() || *byte == 0).next()?;
        Some(std::str::from_utf8(text).ok()?.strip_prefix('v')?.to_owned())
    });
    versions.find(|version| version.starts_with(|first: char| first.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_output_and_from_go_binaries() {
        for (text, version) in
            [(" v6.9.1 (Go version: go1.26)", "6.9.1"), (" v=7.0.15 sha=0", "7.0.15"), (" 0.1.0", "0.1.0")]
        {
            assert_eq!(parse_version(text), version);
        }
        let binary = b"github.com/centrifugal/centrifugo/v6\tvery old\0mod\tgithub.com/centrifugal/centrifugo/v6\tv6.9.1\th1:abc=\n";
        assert_eq!(find_module_version(binary).as_deref(), Some("6.9.1"));
        assert_eq!(find_module_version(b"github.com/centrifugal/centrifugo/v6\tin text"), None);
    }
}
