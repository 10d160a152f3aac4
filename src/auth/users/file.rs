//! The file with the users: reads it, and checks its entries as the verifier checks tokens.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use argon2::{Params, password_hash::phc::PasswordHash};
use aws_lc_rs::hmac;
use serde_json::value::{RawValue, to_raw_value};

use super::{User, UserClaims, UserClaimsError, UserList, UsersFileError, check_name, decoys::Decoys};
use crate::{
    auth::{
        Permissions, TokenError,
        grants::{GrantContext, RawGrants},
    },
    clock::WallTime,
    config::{Config, KeyRules, UserPrefixes},
    publication::MAX_INFO_BYTES,
};

/// Maximum length of `info`, `channels` and `caps` of one user together. A token with them stays below the verifier's limit.
pub(super) const MAX_CLAIMS_BYTES: usize = 4608;

/// The file, and what its users are checked against.
pub(super) struct UsersSource {
    path: PathBuf,
    permissions: Arc<Permissions>,
    channels_per_session: AtomicUsize,
    /// Those of the login's tokens.
    rules: KeyRules,
    prefixes: ArcSwap<UserPrefixes>,
    /// Chooses the decoys of unknown names. It stays the same until the process ends, also if the secret of the login changes.
    decoy_key: hmac::Key,
}

/// What decides whether a user may be in the file.
#[derive(Clone, Copy)]
struct UserChecks<'a> {
    permissions: &'a Permissions,
    channels_per_session: usize,
    prefixes: &'a UserPrefixes,
}

/// The users of a file, by name.
type UsersByName = HashMap<String, Arc<User>>;

impl UsersSource {
    /// Creates a file that is not read yet.
    pub(super) fn new(path: &Path, config: &Config, permissions: Arc<Permissions>) -> Self {
        Self {
            path: path.to_owned(),
            permissions,
            channels_per_session: AtomicUsize::new(config.limits.channels_per_session),
            rules: config.auth.rules(None),
            prefixes: ArcSwap::from_pointee(UserPrefixes::new(&config.auth)),
            decoy_key: Decoys::key(config),
        }
    }

    /// Returns what precedes the names of the file in tokens.
    pub(super) fn user_prefix(&self) -> &str {
        &self.rules.user_prefix
    }

    pub(super) fn set_channels_per_session(&self, channels: usize) {
        self.channels_per_session.store(channels, Ordering::Relaxed);
    }

    pub(super) fn set_user_prefixes(&self, prefixes: &UserPrefixes) {
        self.prefixes.store(Arc::new(prefixes.clone()));
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`UsersFileError`].
    pub(super) fn read(&self) -> Result<UserList, UsersFileError> {
        UserList::new(self.read_users_in_force()?, &self.decoy_key)
    }

    /// Checks the users of the file for a configuration that may replace the one in force.
    ///
    /// # Errors
    /// [`UsersFileError`] for the first user that only the configuration in force allows.
    pub(super) fn check_allowed_by(&self, config: &Config) -> Result<(), UsersFileError> {
        let checks = UserChecks {
            permissions: &Permissions::new(&config.channels, &config.namespaces),
            channels_per_session: config.limits.channels_per_session,
            prefixes: &UserPrefixes::new(&config.auth),
        };
        match self.read_users(checks) {
            Err(error) if self.read_users_in_force().is_ok() => Err(error),
            _ => Ok(()),
        }
    }

    fn read_users_in_force(&self) -> Result<UsersByName, UsersFileError> {
        self.read_users(UserChecks {
            permissions: &self.permissions,
            channels_per_session: self.channels_per_session.load(Ordering::Relaxed),
            prefixes: &self.prefixes.load(),
        })
    }

    fn read_users(&self, checks: UserChecks<'_>) -> Result<UsersByName, UsersFileError> {
        let read = std::fs::read_to_string(&self.path);
        let text = read.map_err(|error| UsersFileError::Read { path: self.path.clone(), error })?;
        let entries = parse_file(&text)?;
        let mut by_name = HashMap::new();
        for entry in entries {
            let (name, password_hash) = (entry.name.clone(), entry.password.clone());
            if !is_complete_hash(&password_hash) {
                return Err(UsersFileError::PasswordHash(name));
            }
            check_name(&name).map_err(|error| UsersFileError::InvalidName(name.clone(), error))?;
            let refused = |error: UserClaimsError| UsersFileError::Claims(name.clone(), error);
            let user = checks.prefixes.user(name.clone(), &self.rules).map_err(|error| refused(error.into()))?;
            let (permissions, max_subscriptions) = (checks.permissions, checks.channels_per_session);
            let context = GrantContext { permissions, max_subscriptions, user: &user, now: WallTime::default() };
            let claims = entry.claims(context).map_err(refused)?;
            let user = User::new(name.clone(), user, password_hash, claims);
            if by_name.insert(name.clone(), Arc::new(user)).is_some() {
                return Err(UsersFileError::DuplicateName(name));
            }
        }
        Ok(by_name)
    }
}

/// One of `[[users]]`.
struct UserEntry {
    name: String,
    password: String,
    info: Option<toml::Value>,
    channels: Option<toml::Value>,
    caps: Option<toml::Value>,
}

/// Parses the file. Neither serde's nor the TOML parser's own errors are shown: they quote values, and a value may be a
/// password.
fn parse_file(text: &str) -> Result<Vec<UserEntry>, UsersFileError> {
    let mut file: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start);
        UsersFileError::Syntax { line: 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count() }
    })?;
    let users = match file.remove("users") {
        None => Vec::new(),
        Some(toml::Value::Array(users)) => users,
        Some(_) => return Err(UsersFileError::Form("users is not a list".to_owned())),
    };
    if let Some(key) = file.keys().next() {
        return Err(UsersFileError::Form(format!("unknown key {key:?}")));
    }
    let form_error = |index: usize, problem| UsersFileError::Form(format!("entry {} of users: {problem}", index + 1));
    let parse = |(index, user)| UserEntry::parse(user).map_err(|problem| form_error(index, problem));
    users.into_iter().enumerate().map(parse).collect()
}

impl UserEntry {
    fn parse(value: toml::Value) -> Result<Self, String> {
        const KEYS: [&str; 5] = ["name", "password", "info", "channels", "caps"];
        let toml::Value::Table(mut table) = value else { return Err("not a table".to_owned()) };
        if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(format!("unknown key {key:?}"));
        }
        let [name, password, info, channels, caps] = KEYS.map(|key| table.remove(key));
        let text = |key: &str, value| match value {
            Some(toml::Value::String(text)) => Ok(text),
            Some(_) => Err(format!("{key} is not a string")),
            None => Err(format!("{key} is missing")),
        };
        Ok(Self { name: text("name", name)?, password: text("password", password)?, info, channels, caps })
    }

    /// Returns the claims for the user's tokens, if tokens may have them.
    fn claims(self, context: GrantContext<'_>) -> Result<UserClaims, UserClaimsError> {
        let values = [&self.info, &self.channels, &self.caps];
        if values.into_iter().flatten().any(has_date) {
            return Err(UserClaimsError::Date);
        }
        let raw = |value: Option<toml::Value>| value.map(|value| to_raw_value(&value)).transpose();
        let claims = UserClaims { info: raw(self.info)?, channels: raw(self.channels)?, caps: raw(self.caps)? };
        let UserClaims { info, channels, caps } = &claims;
        RawGrants { channels: channels.as_deref(), subs: None, caps: caps.as_deref() }.validate(context)?;
        let bytes = |raw: &Option<Box<RawValue>>| raw.as_ref().map_or(0, |raw| raw.get().len());
        if bytes(info) > MAX_INFO_BYTES {
            return Err(TokenError::InfoTooLong.into());
        }
        if bytes(info) + bytes(channels) + bytes(caps) > MAX_CLAIMS_BYTES {
            return Err(UserClaimsError::TooLong);
        }
        Ok(claims)
    }
}

fn has_date(value: &toml::Value) -> bool {
    match value {
        toml::Value::Datetime(_) => true,
        toml::Value::Array(list) => list.iter().any(has_date),
        toml::Value::Table(table) => table.values().any(has_date),
        _ => false,
    }
}

/// Returns whether the text is a complete argon2id hash. Verifying an incomplete one fails at once: its user could never log in,
/// and the short time would distinguish the name from unknown ones.
fn is_complete_hash(text: &str) -> bool {
    let is_complete =
        |hash: PasswordHash| hash.salt.is_some() && hash.hash.is_some() && Params::try_from(&hash).is_ok();
    text.starts_with("$argon2id$") && PasswordHash::new(text).is_ok_and(is_complete)
}
