//! The processes of a deployment: Redis servers, Sentinels and hubs, which can be killed, frozen and started again on their
//! ports with their files.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::child_process::{ChildProcess, ProgramOutput};
use crate::error::{BenchError, Context, Result, fail};

/// How long a server may take to start or to end.
const SERVER_TIMEOUT: Duration = Duration::from_secs(20);
/// The time between two questions.
const QUESTION_INTERVAL: Duration = Duration::from_millis(20);
/// How long one question may take.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);

/// A folder of a run, which is removed with this value.
pub(super) struct RunFolder(pub(super) PathBuf);

impl RunFolder {
    /// Creates an empty folder.
    pub(super) fn create() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("wardcast-chaos-{}", Uuid::new_v4().simple()));
        std::fs::create_dir(&path).context(path.display())?;
        Ok(Self(path))
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        // The system removes what is left of its temporary files.
        _ = std::fs::remove_dir_all(&self.0);
    }
}

/// How a server is started.
pub(super) struct ServerCommand {
    /// The program.
    pub(super) program: PathBuf,
    /// Its arguments.
    pub(super) arguments: Vec<String>,
    /// Its environment, which is nothing else.
    pub(super) variables: Vec<(&'static str, String)>,
    /// Its folder.
    pub(super) folder: PathBuf,
}

/// A server on a port of its own.
pub(super) struct Server {
    /// What it is called in messages.
    pub(super) name: String,
    /// The loopback port that it listens at.
    pub(super) port: u16,
    command: ServerCommand,
    process: Option<(ChildProcess, ProgramOutput)>,
}

impl Server {
    /// Starts a server. It may not answer yet.
    pub(super) fn start(name: String, port: u16, command: ServerCommand) -> Result<Self> {
        let mut server = Self { name, port, command, process: None };
        server.start_again()?;
        Ok(server)
    }

    /// Starts the server again, after it was killed or has ended.
    pub(super) fn start_again(&mut self) -> Result<()> {
        let ServerCommand { program, arguments, variables, folder } = &self.command;
        self.process = Some(ChildProcess::start_program(program, |command| {
            command.args(arguments).env_clear().envs(variables.iter().cloned()).current_dir(folder);
        })?);
        Ok(())
    }

    /// The address.
    pub(super) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The process, if it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|(process, _)| process.id())
    }

    /// Kills the server at once, as a crash does.
    pub(super) fn kill(&mut self) {
        self.process = None;
    }

    /// Sends a signal.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        let (process, _) = self.process()?;
        process.signal(signal).context(format_args!("signalling {}", self.name))
    }

    /// Asks the server to stop, and waits until it has ended.
    pub(super) async fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let start = Instant::now();
        while !self.process.as_mut().is_none_or(|(process, _)| process.has_ended()) {
            if start.elapsed() > SERVER_TIMEOUT {
                return fail(format!("{} did not stop within {} s", self.name, SERVER_TIMEOUT.as_secs()));
            }
            sleep(QUESTION_INTERVAL).await;
        }
        self.process = None;
        Ok(())
    }

    /// Waits until the server answers `question` with success.
    pub(super) async fn wait_until<T>(&mut self, mut question: impl AsyncFnMut() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        loop {
            let error = match timeout(QUESTION_TIMEOUT, question()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error,
                Err(_) => BenchError("no answer".to_owned()),
            };
            let has_ended = self.process.as_mut().is_none_or(|(process, _)| process.has_ended());
            if has_ended || start.elapsed() > SERVER_TIMEOUT {
                let output = self.process().map(|(_, output)| output.text()).unwrap_or_default();
                let line = output.lines().last().map_or(String::new(), |line| format!("; it printed: {line}"));
                return fail(format!("{} is not ready: {error}{line}", self.name));
            }
            sleep(QUESTION_INTERVAL).await;
        }
    }

    fn process(&self) -> Result<&(ChildProcess, ProgramOutput)> {
        self.process.as_ref().ok_or_else(|| BenchError(format!("{} does not run", self.name)))
    }
}

/// Creates a folder for a server below that of the run.
pub(super) fn server_folder(run: &Path, name: &str) -> Result<PathBuf> {
    let folder = run.join(name);
    std::fs::create_dir(&folder).context(folder.display())?;
    Ok(folder)
}
