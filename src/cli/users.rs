//! `user`: edits the login file. A change keeps the comments and the layout of the file, is checked as a hub would
//! check the file, and replaces the file atomically: a hub that reads it meanwhile gets the old one or the new one.

use std::{
    fs::{self, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::value::RawValue;
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, TomlError, Value};

use super::{
    CommandResult, advice, arguments::GrantArguments, configuration::ConfigInputs, escape_control, password, token,
};
use crate::{
    auth::{
        Permissions,
        users::{self, Users},
    },
    config::Config,
};

/// When a change takes effect.
const RELOAD_NOTICE: &str =
    "Running hubs read the file when it changes (login.users_file_interval, 10 s by default) and at SIGHUP.";

/// A login file, and the configuration of the hubs that read it.
pub(super) struct LoginFile {
    path: PathBuf,
    config: Config,
}

impl LoginFile {
    /// Opens the file `named`, or else the configured one.
    pub(super) fn open(inputs: &ConfigInputs, named: Option<PathBuf>) -> Result<Self, String> {
        let config = inputs.load()?;
        let path = named.or_else(|| config.login.users_file.clone()).ok_or(
            "login.users_file is not set; name the file with --file users.toml, or the configuration of the hub with --config",
        )?;
        // Of a link, the file that it points to is replaced.
        let path = fs::canonicalize(&path).unwrap_or(path);
        Ok(Self { path, config })
    }

    pub(super) fn add(&self, name: &str, grants: &GrantArguments) -> CommandResult {
        users::check_name(name).map_err(|error| error.to_string())?;
        let claims = token::claims_from_arguments(grants)?;
        // Before the password is typed.
        self.ensure_absent(name, &self.read()?)?;
        let hash = users::hash_password(&password::read()?).map_err(|error| error.to_string())?;
        let mut user = Table::new();
        user["name"] = toml_edit::value(name);
        user["password"] = toml_edit::value(hash);
        for (key, json) in [("info", &claims.info), ("channels", &claims.channels), ("caps", &claims.caps)] {
            if let Some(json) = json {
                user[key] = Item::Value(to_toml(key, json)?);
            }
        }
        self.change(|document| {
            self.ensure_absent(name, document)?;
            let users = document.entry("users").or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
            let users = users.as_array_of_tables_mut().ok_or_else(|| self.error(NOT_USER_TABLES))?;
            users.push(user);
            Ok(())
        })?;
        Ok(self.success(&format!("{} can log in", escape_control(name))))
    }

    pub(super) fn remove(&self, name: &str) -> CommandResult {
        self.change(|document| {
            let at = self.position_of(name, document)?;
            let users = document.get_mut("users").and_then(Item::as_array_of_tables_mut);
            users.ok_or_else(|| self.error(NOT_USER_TABLES))?.remove(at);
            Ok(())
        })?;
        Ok(self.success(&format!(
            "{} can no longer log in; running hubs end the logins of this user when they read the file",
            escape_control(name)
        )))
    }

    pub(super) fn passwd(&self, name: &str) -> CommandResult {
        self.position_of(name, &self.read()?)?;
        let hash = users::hash_password(&password::read()?).map_err(|error| error.to_string())?;
        self.change(|document| {
            let at = self.position_of(name, document)?;
            let users = document.get_mut("users").and_then(Item::as_array_of_tables_mut);
            let user = users.and_then(|users| users.get_mut(at)).ok_or_else(|| self.error(NOT_USER_TABLES))?;
            user["password"] = toml_edit::value(hash);
            Ok(())
        })?;
        Ok(self.success(&format!("{} has a new password", escape_control(name))))
    }

    pub(super) fn list(&self) -> CommandResult {
        if !self.path.exists() {
            return Err(self.error("the file does not exist; create it with: wardcast user add NAME").into());
        }
        let document = self.read()?;
        let line = |user: &Table| {
            let name = escape_control(user.get("name").and_then(Item::as_str).unwrap_or_default());
            let more = ["info", "channels", "caps"].into_iter().filter(|key| user.contains_key(key));
            format!("{name}{}\n", more.map(|key| format!("  {key}")).collect::<String>())
        };
        Ok(user_tables(&document).map(line).collect())
    }

    /// Reads the file. A missing file is like an empty one.
    fn read(&self) -> Result<DocumentMut, String> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(self.error(&error.to_string())),
        };
        // Not the message of the parser: it quotes the line, which may contain a password.
        text.parse().map_err(|error: TomlError| {
            let start = error.span().map_or(0, |span| span.start);
            let line = 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count();
            self.error(&format!("line {line} is not valid TOML; fix it by hand"))
        })
    }

    /// Changes the file, if a hub would accept the result. A lock on the directory prevents two changes from
    /// overwriting each other.
    fn change(&self, edit: impl FnOnce(&mut DocumentMut) -> Result<(), String>) -> Result<(), String> {
        let io_error = |error: io::Error| self.error(&error.to_string());
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let lock = fs::File::open(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        lock.lock().map_err(io_error)?;
        let mut document = self.read()?;
        edit(&mut document)?;
        let name = self.path.file_name().ok_or_else(|| self.error("is not the path of a file"))?.to_string_lossy();
        let fresh = folder.join(format!(".{name}.{}", std::process::id()));
        let changed = self.write(&fresh, &document.to_string()).map_err(io_error).and_then(|()| {
            let permissions = Arc::new(Permissions::new(&self.config.channels, &self.config.namespaces));
            let checked = Users::read(&fresh, &self.config, permissions);
            checked.map_err(|bad| self.error(&format!("nothing was changed: {}", advice::users_file_error(&bad))))?;
            fs::rename(&fresh, &self.path).and_then(|()| lock.sync_all()).map_err(io_error)
        });
        // It still exists if the change failed.
        let _ = fs::remove_file(&fresh);
        changed
    }

    /// Creates the new file: with the owner and the mode of the old one, or without an old one readable only by its
    /// owner.
    fn write(&self, fresh: &Path, text: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(fresh)?;
        if let Ok(before) = fs::metadata(&self.path) {
            let now = file.metadata()?;
            if (before.uid(), before.gid()) != (now.uid(), now.gid()) {
                fchown(&file, Some(before.uid()), Some(before.gid()))?;
            }
            file.set_permissions(fs::Permissions::from_mode(before.mode() & 0o7777))?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }

    fn ensure_absent(&self, name: &str, document: &DocumentMut) -> Result<(), String> {
        match self.position_of(name, document) {
            Ok(_) => Err(self.error(&format!(
                "the user {name:?} already exists; to change the password: wardcast user passwd NAME"
            ))),
            Err(_) => Ok(()),
        }
    }

    fn position_of(&self, name: &str, document: &DocumentMut) -> Result<usize, String> {
        let is_wanted = |user: &Table| user.get("name").and_then(Item::as_str) == Some(name);
        let place = user_tables(document).position(is_wanted);
        place.ok_or_else(|| self.error(&format!("there is no user {name:?}; `wardcast user list` prints all users")))
    }

    fn error(&self, problem: &str) -> String {
        format!("{}: {problem}", self.path.display())
    }

    fn success(&self, what: &str) -> String {
        format!("{what} ({}).\n{RELOAD_NOTICE}\n", self.path.display())
    }
}

/// The error for users that were written by hand in another valid form, which this command cannot edit.
const NOT_USER_TABLES: &str = "has its users in another form than [[users]]; edit it by hand";

fn user_tables(document: &DocumentMut) -> impl Iterator<Item = &Table> {
    document.get("users").and_then(Item::as_array_of_tables).into_iter().flat_map(ArrayOfTables::iter)
}

/// Converts JSON to TOML, which can represent everything but `null`.
fn to_toml(key: &str, json: &RawValue) -> Result<Value, String> {
    let value: toml::Value = serde_json::from_str(json.get())
        .map_err(|_| format!("--{key} contains a value that TOML cannot represent, like null; remove it"))?;
    value.to_string().parse().map_err(|_| format!("--{key} cannot be written as TOML"))
}
