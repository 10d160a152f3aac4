//! The directory in which development hubs of one user keep files for their later runs and for commands. It is used only if no other
//! user of the machine can have written or read its files.

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

/// Maximum length of a file. A generated one has less than 600 bytes.
const MAX_BYTES: u64 = 4096;
/// Mode of the directory, and the bits of its mode that let other users replace a file.
const DIRECTORY_MODE: u32 = 0o700;
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// The bits of a file's mode that let other users use it.
const ACCESSIBLE_BY_OTHERS: u32 = 0o077;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateFileError {
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

/// The directory of one user. `--ephemeral` is the way not to use it.
#[derive(Clone, Debug)]
pub(super) struct StateDirectory {
    path: PathBuf,
}

/// The directory, open and checked.
pub(super) struct OpenStateDirectory<'a> {
    path: &'a Path,
    directory: File,
}

impl StateDirectory {
    /// The directory below that for the state of programs: `$XDG_STATE_HOME`, or `.local/state` in the home directory. `None` if
    /// the user has neither.
    pub(super) fn of_user(state_home: Option<PathBuf>, home: Option<PathBuf>) -> Option<Self> {
        // A relative path is not valid (XDG Base Directory Specification).
        let is_absolute = |path: &PathBuf| path.is_absolute();
        let state = state_home.filter(is_absolute);
        let state = state.or_else(|| home.filter(is_absolute).map(|home| home.join(".local/state")))?;
        Some(Self { path: state.join("wardcast") })
    }

    /// Returns the path of a file in it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads a file; `None` if it does not exist.
    ///
    /// # Errors
    /// The file cannot be trusted, or cannot be read.
    pub(super) fn read(&self, name: &str) -> Result<Option<String>, StateFileError> {
        match self.open() {
            Ok(directory) => directory.read(name),
            Err(StateFileError::Io { error, .. }) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates the directory if it does not exist, and locks it until the result is dropped.
    ///
    /// # Errors
    /// The directory cannot be trusted, or can neither be opened nor created.
    pub(super) fn create_and_lock(&self) -> Result<OpenStateDirectory<'_>, StateFileError> {
        let create = DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(&self.path);
        // If something else than a directory is there, opening it says what.
        create.or_else(|error| if error.kind() == ErrorKind::AlreadyExists { Ok(()) } else { Err(self.io(error)) })?;
        let open = self.open()?;
        open.directory.lock().map_err(|error| self.io(error))?;
        Ok(open)
    }

    fn open(&self) -> Result<OpenStateDirectory<'_>, StateFileError> {
        let path = &self.path;
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
        Ok(OpenStateDirectory { path, directory })
    }

    fn io(&self, error: io::Error) -> StateFileError {
        StateFileError::Io { path: self.path.clone(), error }
    }
}

impl OpenStateDirectory<'_> {
    /// Reads a file; `None` if it does not exist.
    ///
    /// # Errors
    /// The file cannot be trusted, or cannot be read.
    pub(super) fn read(&self, name: &str) -> Result<Option<String>, StateFileError> {
        let path = self.path.join(name);
        let io = |error| StateFileError::Io { path: path.clone(), error };
        // Without NONBLOCK, opening a named pipe would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.directory, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::LOOP) => return Err(untrusted(&path, "is a symbolic link", "remove it")),
            Err(error) => return Err(io(error.into())),
        };
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(untrusted(&path, "is not a regular file", "remove it"));
        }
        check_owner(&path, metadata.uid())?;
        if metadata.mode() & ACCESSIBLE_BY_OTHERS != 0 {
            return Err(untrusted(&path, "is accessible by other users", &format!("run: rm {}", path.display())));
        }
        let mut text = String::new();
        file.take(MAX_BYTES).read_to_string(&mut text).map_err(io)?;
        Ok(Some(text))
    }

    /// Creates or replaces a file. A reader never sees a part of it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<(), StateFileError> {
        self.replace(name, text).map_err(|error| StateFileError::Io { path: self.path.join(name), error })
    }

    fn replace(&self, name: &str, text: &str) -> io::Result<()> {
        let (directory, new_name) = (&self.directory, format!(".{name}.new"));
        // A program that was killed may have left it.
        let _ = unlinkat(directory, &new_name, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(directory, &new_name, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        Ok(renameat(directory, &new_name, directory, name)?)
    }

    /// Removes a file. Ignores errors: a reader finds out by itself that what the file says is over.
    pub(super) fn remove(&self, name: &str) {
        let _ = unlinkat(&self.directory, name, AtFlags::empty());
    }
}

/// The error for a file of this directory that cannot be trusted.
pub(super) fn untrusted(path: &Path, problem: &str, remedy: &str) -> StateFileError {
    StateFileError::Untrusted { path: path.to_owned(), problem: problem.to_owned(), remedy: remedy.to_owned() }
}

fn check_owner(path: &Path, owner: u32) -> Result<(), StateFileError> {
    let user = geteuid().as_raw();
    if owner == user {
        return Ok(());
    }
    let problem = format!("belongs to the user with the id {owner}, not {user}");
    Err(untrusted(path, &problem, "run as its owner"))
}
