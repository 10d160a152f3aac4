//! The file in which development hubs keep their generated secrets, so that `token` and `check-token` work beside a hub,
//! and tokens and the login outlive a restart. The file is used only if no other user of the machine can have written or
//! read it.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat},
    process::geteuid,
};

use super::secrets::DevelopmentSecrets;

/// The file's name in its directory.
const NAME: &str = "development.toml";
/// The name under which it is written, before it gets its own.
const NEW_NAME: &str = ".development.toml.new";
/// Maximum length. A generated file has less than 600 bytes.
const MAX_BYTES: u64 = 4096;
/// Mode of the directory, and the bits of its mode that let other users replace the file.
const DIRECTORY_MODE: u32 = 0o700;
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// The bits of the file's mode that let other users use it.
const ACCESSIBLE_BY_OTHERS: u32 = 0o077;

const COMMENT: &str = "# Secrets of Wardcast's development hubs, which their configuration does not set. Without this file, the next \
    start generates new ones.\n\n";

/// Why the secrets cannot be kept in the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum SecretsFileError {
    /// The file or its directory exists, but cannot be trusted.
    #[error("{}: {problem}, so its secrets are not used; {remedy}, or start with --ephemeral", path.display())]
    Untrusted {
        /// The file or directory.
        path: PathBuf,
        problem: String,
        remedy: String,
    },
    /// The file cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    /// There are no random bytes.
    #[error("{0}")]
    Random(String),
}

/// The file of one user. `--ephemeral` is the way not to use it.
#[derive(Clone, Debug)]
pub(super) struct SecretsFile {
    directory: PathBuf,
}

impl SecretsFile {
    /// The file below the directory for the state of programs: `$XDG_STATE_HOME`, or `.local/state` in the home
    /// directory. `None` if the user has neither.
    pub(super) fn of_user(state_home: Option<PathBuf>, home: Option<PathBuf>) -> Option<Self> {
        // A relative path is not valid (XDG Base Directory Specification).
        let is_absolute = |path: &PathBuf| path.is_absolute();
        let state = state_home.filter(is_absolute);
        let state = state.or_else(|| home.filter(is_absolute).map(|home| home.join(".local/state")))?;
        Some(Self { directory: state.join("wardcast") })
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory.join(NAME)
    }

    /// Reads the secrets; `None` if no hub has created the file yet.
    ///
    /// # Errors
    /// The file cannot be trusted, or cannot be read.
    pub(super) fn read(&self) -> Result<Option<DevelopmentSecrets>, SecretsFileError> {
        match self.open_directory() {
            Ok(directory) => self.read_in(&directory),
            Err(SecretsFileError::Io { error, .. }) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the secrets, or generates them and creates the file.
    ///
    /// # Errors
    /// The file cannot be trusted, or can neither be read nor created.
    pub(super) fn read_or_create(&self) -> Result<DevelopmentSecrets, SecretsFileError> {
        let create = DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(&self.directory);
        // If something else than a directory is there, opening it says what.
        create.or_else(|error| if error.kind() == ErrorKind::AlreadyExists { Ok(()) } else { Err(self.io(error)) })?;
        let directory = self.open_directory()?;
        // Two hubs that start at the same time keep the secrets of the first.
        directory.lock().map_err(|error| self.io(error))?;
        if let Some(secrets) = self.read_in(&directory)? {
            return Ok(secrets);
        }
        let secrets = DevelopmentSecrets::generate().map_err(SecretsFileError::Random)?;
        write_new(&directory, &format!("{COMMENT}{}", secrets.to_toml())).map_err(|error| self.io(error))?;
        Ok(secrets)
    }

    fn open_directory(&self) -> Result<File, SecretsFileError> {
        let path = &self.directory;
        if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink()) {
            return Err(untrusted(path, "is a symbolic link", "remove it"));
        }
        // The link may have been made since.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty()).map(File::from);
        let directory = opened.map_err(|error| self.io(error.into()))?;
        let metadata = directory.metadata().map_err(|error| self.io(error))?;
        check_owner(path, metadata.uid())?;
        if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
            return Err(untrusted(path, "is writable by other users", &format!("run: chmod 700 {}", path.display())));
        }
        Ok(directory)
    }

    fn read_in(&self, directory: &File) -> Result<Option<DevelopmentSecrets>, SecretsFileError> {
        let path = self.path();
        // Without NONBLOCK, opening a named pipe would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(directory, NAME, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::LOOP) => return Err(untrusted(&path, "is a symbolic link", "remove it")),
            Err(error) => return Err(self.io(error.into())),
        };
        let metadata = file.metadata().map_err(|error| self.io(error))?;
        if !metadata.is_file() {
            return Err(untrusted(&path, "is not a regular file", "remove it"));
        }
        check_owner(&path, metadata.uid())?;
        if metadata.mode() & ACCESSIBLE_BY_OTHERS != 0 {
            return Err(untrusted(&path, "is accessible by other users", &format!("run: rm {}", path.display())));
        }
        let mut text = String::new();
        file.take(MAX_BYTES).read_to_string(&mut text).map_err(|error| self.io(error))?;
        match DevelopmentSecrets::from_toml(&text) {
            Some(secrets) => Ok(Some(secrets)),
            None => Err(untrusted(
                &path,
                "does not contain the secrets of a development hub",
                &format!("run: rm {}", path.display()),
            )),
        }
    }

    fn io(&self, error: io::Error) -> SecretsFileError {
        SecretsFileError::Io { path: self.path(), error }
    }
}

fn untrusted(path: &Path, problem: &str, remedy: &str) -> SecretsFileError {
    SecretsFileError::Untrusted { path: path.to_owned(), problem: problem.to_owned(), remedy: remedy.to_owned() }
}

fn check_owner(path: &Path, owner: u32) -> Result<(), SecretsFileError> {
    let user = geteuid().as_raw();
    if owner == user {
        return Ok(());
    }
    let problem = format!("belongs to the user with the id {owner}, not {user}");
    Err(untrusted(path, &problem, "run as its owner"))
}

/// Creates the file in the locked directory. A reader never sees a part of it.
fn write_new(directory: &File, text: &str) -> io::Result<()> {
    // A program that was killed may have left it.
    let _ = unlinkat(directory, NEW_NAME, AtFlags::empty());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(directory, NEW_NAME, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(renameat(directory, NEW_NAME, directory, NAME)?)
}
