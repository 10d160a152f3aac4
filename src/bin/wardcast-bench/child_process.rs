//! Child processes: this program started once more, as the server of `limit` or to become a hub.

use std::io::{BufRead, BufReader, Lines};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::error::{BenchError, Context, Result};

/// A child process that is killed when this value is dropped.
pub(crate) struct ChildProcess(Child);

impl ChildProcess {
    /// Starts this program with a subcommand, which `configure` completes. Returns the lines of the child's stdout, too.
    ///
    /// The child has a process group of its own: Ctrl-C is for this program only, which still reads figures of the child.
    pub(crate) fn start(
        subcommand: &str,
        configure: impl FnOnce(&mut Command),
    ) -> Result<(Self, Lines<BufReader<ChildStdout>>)> {
        let mut command = Command::new(std::env::current_exe().context("finding this program")?);
        command.arg(subcommand).process_group(0).stdin(Stdio::null()).stdout(Stdio::piped());
        configure(&mut command);
        let mut child = command.spawn().context("starting a child process")?;
        let stdout = child.stdout.take().ok_or_else(|| BenchError("the child process has no stdout".to_owned()));
        let child = Self(child);
        Ok((child, BufReader::new(stdout?).lines()))
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
