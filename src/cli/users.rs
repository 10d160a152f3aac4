//! `user`: who may log in. The login file is changed around what people have written into it, judged as a hub would judge it,
//! and exchanged whole: a hub that reads it meanwhile finds the old one or the new one.

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

/// When a change is seen.
const RELOAD_NOTICE: &str = "Hubs read the file when they start, and again at SIGHUP.";

/// A login file, and the configuration of the hubs that read it.
pub(super) struct LoginFile {
    path: PathBuf,
    config: Config,
}

impl LoginFile {
    /// The file that is named, or the configured one.
    pub(super) fn open(inputs: &ConfigInputs, named: Option<PathBuf>) -> Result<Self, String> {
        let config = inputs.load()?;
        let path = named.or_else(|| config.login.users_file.clone()).ok_or(
            "login.users_file is not set: name a file with --file users.toml, or the hub's configuration with --config",
        )?;
        // The file that a link leads to is the one that is exchanged.
        let path = fs::canonicalize(&path).unwrap_or(path);
        Ok(Self { path, config })
    }

    pub(super) fn add(&self, name: &str, grants: &GrantArguments) -> CommandResult {
        if !users::is_valid_name(name) {
            return Err("a name has 1 to 255 bytes and no control characters".into());
        }
        let claims = token::claims_from_arguments(grants)?;
        // Before somebody types a password for nothing.
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
            "{} can log in no more; tokens that were given out are good until they expire",
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
            return Err(self.error("no such file; make it with: wardcast user add NAME").into());
        }
        let document = self.read()?;
        let line = |user: &Table| {
            let name = escape_control(user.get("name").and_then(Item::as_str).unwrap_or_default());
            let more = ["info", "channels", "caps"].into_iter().filter(|key| user.contains_key(key));
            format!("{name}{}\n", more.map(|key| format!("  {key}")).collect::<String>())
        };
        Ok(user_tables(&document).map(line).collect())
    }

    /// The file as it is; an empty one where there is none.
    fn read(&self) -> Result<DocumentMut, String> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(self.error(&error.to_string())),
        };
        // Without the parser's own words: it quotes lines, and a line may be a password.
        text.parse().map_err(|error: TomlError| {
            let start = error.span().map_or(0, |span| span.start);
            let line = 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count();
            self.error(&format!("line {line} is not TOML; mend it by hand"))
        })
    }

    /// Changes the file, if a hub would take what comes of it. One at a time: two would undo each other's change.
    fn change(&self, edit: impl FnOnce(&mut DocumentMut) -> Result<(), String>) -> Result<(), String> {
        let io_error = |error: io::Error| self.error(&error.to_string());
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let lock = fs::File::open(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        lock.lock().map_err(io_error)?;
        let mut document = self.read()?;
        edit(&mut document)?;
        let name = self.path.file_name().ok_or_else(|| self.error("names no file"))?.to_string_lossy();
        let fresh = folder.join(format!(".{name}.{}", std::process::id()));
        let changed = self.write(&fresh, &document.to_string()).map_err(io_error).and_then(|()| {
            let permissions = Arc::new(Permissions::new(&self.config.channels, &self.config.namespaces));
            let checked = Users::read(&fresh, permissions, self.config.limits.channels_per_session);
            checked.map_err(|bad| self.error(&format!("nothing was changed: {}", advice::users_file_error(&bad))))?;
            fs::rename(&fresh, &self.path).and_then(|()| lock.sync_all()).map_err(io_error)
        });
        // What was renamed is not there any more.
        let _ = fs::remove_file(&fresh);
        changed
    }

    /// A file for the owner alone, or with the owner and the mode of the one that it takes the place of.
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
            Ok(_) => {
                Err(self.error(&format!("{name:?} is there already; for a new password: wardcast user passwd NAME")))
            }
            Err(_) => Ok(()),
        }
    }

    fn position_of(&self, name: &str, document: &DocumentMut) -> Result<usize, String> {
        let is_wanted = |user: &Table| user.get("name").and_then(Item::as_str) == Some(name);
        let place = user_tables(document).position(is_wanted);
        place.ok_or_else(|| self.error(&format!("there is no user {name:?}; `wardcast user list` names all of them")))
    }

    fn error(&self, problem: &str) -> String {
        format!("{}: {problem}", self.path.display())
    }

    fn success(&self, what: &str) -> String {
        format!("{what} ({}).\n{RELOAD_NOTICE}\n", self.path.display())
    }
}

/// The one form that is edited; people may have written others by hand.
const NOT_USER_TABLES: &str = "has its users in another form than [[users]]; change it by hand";

fn user_tables(document: &DocumentMut) -> impl Iterator<Item = &Table> {
    document.get("users").and_then(Item::as_array_of_tables).into_iter().flat_map(ArrayOfTables::iter)
}

/// JSON in TOML's words, which are the same but for `null`.
fn to_toml(key: &str, json: &RawValue) -> Result<Value, String> {
    let value: toml::Value = serde_json::from_str(json.get())
        .map_err(|_| format!("--{key} has what TOML cannot say, like null; leave that out"))?;
    value.to_string().parse().map_err(|_| format!("--{key} cannot be written as TOML"))
}
