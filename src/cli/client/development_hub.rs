//! The file in which development hubs say where they listen, so that commands find them without their flags.

use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

use super::{Endpoint, ServerIdentity};
use crate::{
    cli::state_directory::{StateDirectory, StateFileError},
    config::Config,
};

/// The file's name in its directory.
const NAME: &str = "running.toml";

/// The file of one user.
#[derive(Clone, Debug)]
pub(in crate::cli) struct DevelopmentHubFile {
    directory: StateDirectory,
}

/// Where a development hub listens.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(in crate::cli) struct RunningHub {
    /// URL for clients.
    pub(in crate::cli) url: String,
    /// URL of the server API.
    pub(in crate::cli) api_url: String,
    /// Process id.
    process: i32,
}

impl RunningHub {
    /// Returns its listener for clients, which this configuration describes, too.
    ///
    /// # Errors
    /// The file has no URL.
    pub(in crate::cli) fn public_endpoint(&self, config: &Config) -> Result<Endpoint, String> {
        Ok(Endpoint::from_url(&self.url, ServerIdentity::Any)?.with_proxy_header(config))
    }

    fn is_alive(&self) -> bool {
        Pid::from_raw(self.process).is_some_and(|process| test_kill_process(process).is_ok())
    }
}

/// The contents of the file: the hubs that run, in the order of their starts.
#[derive(Default, Deserialize, Serialize)]
struct RunningHubs {
    #[serde(default)]
    hubs: Vec<RunningHub>,
}

impl RunningHubs {
    /// Parses the file, without the hubs that were killed.
    fn parse(text: &str) -> Self {
        let mut running: Self = toml::from_str(text).unwrap_or_default();
        running.hubs.retain(RunningHub::is_alive);
        running
    }
}

impl DevelopmentHubFile {
    /// The file in this directory.
    pub(in crate::cli) fn new(directory: StateDirectory) -> Self {
        Self { directory }
    }

    /// Returns the hub that has started last. `None` if none runs, or if another user may have written the file.
    pub(in crate::cli) fn read(&self) -> Option<RunningHub> {
        RunningHubs::parse(&self.directory.read(NAME).ok()??).hubs.pop()
    }

    /// Adds the hub of this process.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(in crate::cli) fn add(&self, url: String, api_url: String) -> Result<(), StateFileError> {
        self.update(|hubs| hubs.push(RunningHub { url, api_url, process: own_process() }))
    }

    /// Removes the hub of this process.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(in crate::cli) fn remove(&self) -> Result<(), StateFileError> {
        self.update(|hubs| hubs.retain(|hub| hub.process != own_process()))
    }

    fn update(&self, change: impl FnOnce(&mut Vec<RunningHub>)) -> Result<(), StateFileError> {
        let directory = self.directory.create_and_lock()?;
        // A file that another user may have written is replaced.
        let mut running = RunningHubs::parse(&directory.read(NAME).ok().flatten().unwrap_or_default());
        change(&mut running.hubs);
        if running.hubs.is_empty() {
            directory.remove(NAME);
            return Ok(());
        }
        directory.write(NAME, &toml::to_string(&running).unwrap_or_default())
    }
}

fn own_process() -> i32 {
    i32::try_from(std::process::id()).unwrap_or_default()
}
