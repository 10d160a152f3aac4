//! The file in which development hubs keep their generated secrets, so that `token` and `check-token` work beside a hub,
//! and tokens and the login outlive a restart.

use std::path::PathBuf;

use super::{
    secrets::DevelopmentSecrets,
    state_directory::{StateDirectory, StateFileError, untrusted},
};

/// The file's name in its directory.
const NAME: &str = "development.toml";

const COMMENT: &str = "# Secrets of Wardcast's development hubs, which their configuration does not set. Without this file, the next \
    start generates new ones.\n\n";

/// The file of one user. `--ephemeral` is the way not to use it.
#[derive(Clone, Debug)]
pub(super) struct SecretsFile {
    directory: StateDirectory,
}

impl SecretsFile {
    /// The file in this directory.
    pub(super) fn new(directory: StateDirectory) -> Self {
        Self { directory }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory.file(NAME)
    }

    /// Reads the secrets; `None` if no hub has created the file yet.
    ///
    /// # Errors
    /// The file cannot be trusted, or cannot be read.
    pub(super) fn read(&self) -> Result<Option<DevelopmentSecrets>, StateFileError> {
        self.directory.read(NAME)?.map(|text| self.parse(&text)).transpose()
    }

    /// Reads the secrets, or generates them and creates the file.
    ///
    /// # Errors
    /// The file cannot be trusted, or can neither be read nor created.
    pub(super) fn read_or_create(&self) -> Result<DevelopmentSecrets, StateFileError> {
        // Two hubs that start at the same time keep the secrets of the first.
        let directory = self.directory.create_and_lock()?;
        if let Some(text) = directory.read(NAME)? {
            return self.parse(&text);
        }
        let secrets = DevelopmentSecrets::generate().map_err(StateFileError::Random)?;
        directory.write(NAME, &format!("{COMMENT}{}", secrets.to_toml()))?;
        Ok(secrets)
    }

    fn parse(&self, text: &str) -> Result<DevelopmentSecrets, StateFileError> {
        let path = self.path();
        DevelopmentSecrets::from_toml(text).ok_or_else(|| {
            let remedy = format!("run: rm {}", path.display());
            untrusted(&path, "does not contain the secrets of a development hub", &remedy)
        })
    }
}
