//! Child processes: this program started once more, as the server of `limit` or to become another program, such as a hub.

use std::io::{BufRead, BufReader, Lines, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

use crate::error::{BenchError, Context, Result};

/// How much of the latest output of a program is kept, in bytes.
const OUTPUT_BYTES: usize = 4096;

/// A child process that is killed when this value is dropped.
pub(crate) struct ChildProcess(Child);

impl ChildProcess {
    /// Starts this program with a subcommand, which `configure` completes. Returns the lines of the child's stdout, too.
    pub(crate) fn start(
        subcommand: &str,
        configure: impl FnOnce(&mut Command),
    ) -> Result<(Self, Lines<BufReader<ChildStdout>>)> {
        let mut command = Self::command(subcommand)?;
        configure(command.stdout(Stdio::piped()));
        let mut child = command.spawn().context("starting a child process")?;
        let stdout = child.stdout.take().ok_or_else(|| BenchError("the child process has no stdout".to_owned()));
        let child = Self(child);
        Ok((child, BufReader::new(stdout?).lines()))
    }

    /// Starts another program, which ends with this one whatever ends that. Its arguments and variables are what
    /// `configure` adds. Its output is read as long as it lives.
    pub(crate) fn start_program(program: &Path, configure: impl FnOnce(&mut Command)) -> Result<(Self, ProgramOutput)> {
        let mut command = Self::command("hub-server")?;
        let (reader, writer) = std::io::pipe().context("a pipe")?;
        command.arg(program).stdout(writer.try_clone().context("a pipe")?).stderr(writer);
        configure(&mut command);
        let child = Self(command.spawn().context("starting a child process")?);
        // The command holds the writing end, without which the output ends with the child.
        drop(command);
        Ok((child, ProgramOutput::read_from(reader)?))
    }

    /// A command that starts this program with a subcommand.
    ///
    /// The child has a process group of its own: Ctrl-C is for this program only, which still reads figures of the child.
    fn command(subcommand: &str) -> Result<Command> {
        let mut command = Command::new(this_program()?);
        command.arg(subcommand).process_group(0).stdin(Stdio::null());
        Ok(command)
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Sends a signal to the process.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| BenchError("the process has no id".to_owned()))?;
        kill_process(pid, signal).context("kill")
    }

    /// Returns whether the process has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }
}

/// Returns a path of this program. On Linux its file may have been replaced or removed since the start, as by a build.
fn this_program() -> Result<PathBuf> {
    let running = Path::new("/proc/self/exe");
    if running.exists() { Ok(running.to_owned()) } else { std::env::current_exe().context("finding this program") }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The latest output of a program. A program that prints much is not held up by a full pipe, and not all of it is kept.
#[derive(Clone)]
pub(crate) struct ProgramOutput(Arc<Mutex<OutputState>>);

#[derive(Default)]
struct OutputState {
    latest: Vec<u8>,
    has_ended: bool,
}

impl ProgramOutput {
    /// Starts a thread that reads until the output ends.
    fn read_from(mut reader: impl Read + Send + 'static) -> Result<Self> {
        let output = Self(Arc::default());
        let state = output.0.clone();
        let read = move || {
            let mut buffer = [0; OUTPUT_BYTES];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                let latest = &mut state.lock().latest;
                latest.extend_from_slice(&buffer[..count]);
                let excess = latest.len().saturating_sub(OUTPUT_BYTES);
                latest.drain(..excess);
            }
            state.lock().has_ended = true;
        };
        std::thread::Builder::new().name("output".to_owned()).spawn(read).context("starting a thread")?;
        Ok(output)
    }

    /// The latest output.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().latest).trim().to_owned()
    }

    /// Returns whether the program has closed its output, usually because it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.lock().has_ended
    }
}

/// A loopback port that nothing listens at, for a child.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("finding a free port")?;
    Ok(listener.local_addr().context("finding a free port")?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_latest_output_is_kept() {
        let text = "a line\n".repeat(OUTPUT_BYTES) + "the last line\n";
        let output = ProgramOutput::read_from(std::io::Cursor::new(text)).unwrap();
        while !output.has_ended() {
            std::thread::yield_now();
        }
        assert!(output.text().ends_with("a line\nthe last line"));
        assert!(output.text().len() <= OUTPUT_BYTES);
    }
}
