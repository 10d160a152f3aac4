//! Users in a file, for small systems and for trying the hub: names, argon2id hashes and the claims of their tokens. Hashing is
//! slow on purpose, so callers run [`Users::verify`] outside the worker threads.

mod decoys;
mod file;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use argon2::{Argon2, Params, PasswordHasher, PasswordVerifier};
use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::value::RawValue;

use self::{
    decoys::Decoys,
    file::{MAX_CLAIMS_BYTES, UsersSource},
};
use super::{Permissions, TokenError};
use crate::{
    config::{Config, UserPrefixes},
    publication::{MAX_USER_BYTES, is_valid_user},
    revocation::user_tag,
};

pub use crate::config::MAX_PASSWORD_BYTES;

/// The only user if there is no file (`login.demo_password`).
pub const DEMO_USER: &str = "demo";

/// Bytes of the hash of a password hash that its name has.
const PASSWORD_NAME_BYTES: usize = 12;

/// The users that may log in: those of a file when it was last read, or the demo user.
pub struct Users {
    current: ArcSwap<UserList>,
    /// `auth.user_prefix` of the login's tokens.
    prefix: String,
    source: Option<UsersSource>,
    reloading: Mutex<()>,
}

/// A user who was removed or has a new password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedUser {
    /// The user in tokens, with `auth.user_prefix`.
    pub name: String,
    /// Names the new password; `None`: the user was removed.
    pub password_name: Option<String>,
}

impl Users {
    /// Returns whether a user's tokens grant channels (`channels`, `caps`).
    pub fn grant_channels(&self) -> bool {
        let current = self.current.load();
        current.by_name.values().any(|user| user.claims.channels.is_some() || user.claims.caps.is_some())
    }
}

struct UserList {
    by_name: HashMap<String, Arc<User>>,
    /// Verified for unknown names.
    decoys: Decoys,
}

impl UserList {
    fn new(by_name: HashMap<String, Arc<User>>, decoy_key: &hmac::Key) -> Result<Self, UsersFileError> {
        let hashes = by_name.values().map(|user| user.password_hash.clone());
        let decoys = Decoys::new(hashes, decoy_key.clone())?;
        Ok(Self { by_name, decoys })
    }
}

/// One user. It has no `Debug`, so that nothing can print the hash.
pub struct User {
    /// `sub` of the user's tokens: the name in the file.
    pub sub: String,
    /// The user of these tokens, with `auth.user_prefix`.
    pub name: String,
    /// Names the password without saying anything about it: a password that was set again has another name.
    pub password_name: String,
    password_hash: String,
    /// The claims in the tokens of the user.
    pub claims: UserClaims,
}

impl User {
    fn new(sub: String, name: String, password_hash: String, claims: UserClaims) -> Self {
        let digest = digest(&SHA256, password_hash.as_bytes());
        let password_name = BASE64_URL_SAFE_NO_PAD.encode(&digest.as_ref()[..PASSWORD_NAME_BYTES]);
        Self { sub, name, password_name, password_hash, claims }
    }
}

/// The claims that the login file adds to a user's tokens, each as raw JSON in the form that tokens have.
#[derive(Clone, Debug, Default, Serialize)]
pub struct UserClaims {
    /// `info`: visible to other clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<Box<RawValue>>,
    /// `channels`: subscribed to without a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<Box<RawValue>>,
    /// `caps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caps: Option<Box<RawValue>>,
}

/// Why the login file cannot be used. Quotes no value of the file except names and keys.
#[derive(Debug, thiserror::Error)]
pub enum UsersFileError {
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// The error of the system.
        error: std::io::Error,
    },
    /// Not TOML.
    #[error("line {line} is not valid TOML")]
    Syntax {
        /// The line, counted from 1.
        line: usize,
    },
    /// TOML, but not a list of users.
    #[error(
        "{0}; the file must be a list of [[users]] with name and password (strings), and optionally info, channels and caps"
    )]
    Form(String),
    /// The password is not a complete argon2id hash.
    #[error("the password of user {0:?} is not an argon2id hash; create one with: wardcast hash-password")]
    PasswordHash(String),
    /// A name that tokens cannot have.
    #[error("user {0:?}: {1}")]
    InvalidName(String, UserNameError),
    /// Two users with the same name.
    #[error("user {0:?} appears twice")]
    DuplicateName(String),
    /// Claims that no token can have.
    #[error("name, info, channels or caps of user {0:?}: {1}")]
    Claims(String, UserClaimsError),
    /// The system has no randomness or no memory.
    #[error("hashing failed")]
    Hashing,
}

/// A user cannot have this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name must have 1 to {MAX_USER_BYTES} bytes and no control characters")]
pub struct UserNameError;

/// Why the claims of a user in the login file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UserClaimsError {
    /// The verifier would refuse a token with them.
    #[error("a token with them would be refused: {0}")]
    Refused(#[from] TokenError),
    /// JSON has no dates.
    #[error("a date cannot be in a token; write it as a string")]
    Date,
    /// They cannot be written as JSON.
    #[error("cannot be written as JSON")]
    NotJson(#[from] serde_json::Error),
    /// Longer than `MAX_CLAIMS_BYTES`.
    #[error("together they are longer than {MAX_CLAIMS_BYTES} bytes, which is too long for a token")]
    TooLong,
}

impl Users {
    /// Reads the file. Names and what it grants are checked as in a token.
    ///
    /// # Errors
    /// [`UsersFileError`].
    pub fn read(path: &Path, config: &Config, permissions: Arc<Permissions>) -> Result<Self, UsersFileError> {
        let source = UsersSource::new(path, config, permissions);
        let (current, prefix) = (ArcSwap::from_pointee(source.read()?), source.user_prefix().to_owned());
        Ok(Self { current, prefix, source: Some(source), reloading: Mutex::default() })
    }

    /// Creates [`DEMO_USER`] as the only user, with this password and without claims in the tokens beside the name.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn demo(password: &str, config: &Config) -> Result<Self, UsersFileError> {
        // The lightest hash: it is never stored on disk. The 19 MiB of a real one would stay with the process, and distort every
        // measurement of a hub in development.
        let light = Argon2::from(Params::new(Params::MIN_M_COST, 1, 1, None).map_err(|_| UsersFileError::Hashing)?);
        let hash = hash_with(&light, password)?;
        let prefix = config.auth.rules(None).user_prefix;
        let (name, claims) = (format!("{prefix}{DEMO_USER}"), UserClaims::default());
        let user = User::new(DEMO_USER.to_owned(), name, hash, claims);
        let by_name = HashMap::from([(DEMO_USER.to_owned(), Arc::new(user))]);
        Ok(Self {
            current: ArcSwap::from_pointee(UserList::new(by_name, &Decoys::key(config))?),
            prefix,
            source: None,
            reloading: Mutex::default(),
        })
    }

    /// Reads the file again, if there is one. Returns the users of before that are not in it any more or have a new password.
    ///
    /// # Errors
    /// [`UsersFileError`]; the users then stay as they were.
    pub fn reload(&self) -> Result<Vec<ChangedUser>, UsersFileError> {
        let Some(source) = &self.source else { return Ok(Vec::new()) };
        // One at a time: otherwise a reload that has read an older file could end last.
        let _only_one = self.reloading.lock();
        let new = Arc::new(source.read()?);
        let old = self.current.swap(new.clone());
        let changes = old.by_name.iter().map(|(sub, user)| {
            let password_name = new.by_name.get(sub).map(|user| user.password_name.clone());
            (user, ChangedUser { name: user.name.clone(), password_name })
        });
        let is_new = |user: &User, changed: &ChangedUser| changed.password_name.as_ref() != Some(&user.password_name);
        Ok(changes.filter(|(user, changed)| is_new(user, changed)).map(|(_, changed)| changed).collect())
    }

    /// Checks that a reloaded configuration allows the users of the file as it is now, so that its next reload does not fail. A
    /// file that the configuration in force does not allow either is at fault by itself, and is no reason to refuse another
    /// configuration.
    ///
    /// # Errors
    /// [`UsersFileError`] for the first user that only the configuration in force allows.
    pub fn check_allowed_by(&self, config: &Config) -> Result<(), UsersFileError> {
        self.source.as_ref().map_or(Ok(()), |source| source.check_allowed_by(config))
    }

    /// Changes how many channels the file may give a user (`limits.channels_per_session`), from the next reading on.
    pub fn set_channels_per_session(&self, channels: usize) {
        self.source.iter().for_each(|source| source.set_channels_per_session(channels));
    }

    /// Replaces the prefixes of all keys, from the next reading on.
    pub fn set_user_prefixes(&self, prefixes: &UserPrefixes) {
        self.source.iter().for_each(|source| source.set_user_prefixes(prefixes));
    }

    /// Returns the name that a user of the file has in tokens, with `auth.user_prefix`.
    pub fn name_of(&self, sub: &str) -> String {
        format!("{}{sub}", self.prefix)
    }

    /// Returns whether the file has a user of this name.
    pub fn has(&self, sub: &str) -> bool {
        self.current.load().by_name.contains_key(sub)
    }

    /// Returns whether the file has a user of this name with the password of this name ([`User::password_name`]).
    pub fn has_password(&self, sub: &str, password_name: &str) -> bool {
        self.current.load().by_name.get(sub).is_some_and(|user| user.password_name == password_name)
    }

    /// Returns the user of this name, which is that of tokens, with `auth.user_prefix`.
    pub fn find(&self, name: &str) -> Option<Arc<User>> {
        self.current.load().by_name.get(name.strip_prefix(&self.prefix)?).cloned()
    }

    /// Returns the user whose logins have this tag ([`user_tag`]). It hashes the name of each user, so callers run it outside the worker
    /// threads.
    pub fn find_by_tag(&self, tag: &str) -> Option<Arc<User>> {
        self.current.load().by_name.values().find(|user| user_tag(&user.name) == tag).cloned()
    }

    /// Returns the user if the password is right. Takes as long for an unknown user as for a wrong password.
    pub fn verify(&self, name: &str, password: &str) -> Option<Arc<User>> {
        let list = self.current.load_full();
        let user = list.by_name.get(name);
        // Chosen for known names, too, so that both take the same steps.
        let decoy = list.decoys.of(name);
        let hash = user.map_or(decoy, |user| user.password_hash.as_str());
        let is_right = Argon2::default().verify_password(password.as_bytes(), hash).is_ok();
        user.filter(|_| is_right).cloned()
    }
}

/// Checks whether a user may have this name.
///
/// # Errors
/// [`UserNameError`].
pub fn check_name(text: &str) -> Result<(), UserNameError> {
    if !text.is_empty() && is_valid_user(text) { Ok(()) } else { Err(UserNameError) }
}

/// Hashes a password with argon2id, 19 MiB, two passes (OWASP's minimum) and a random salt. Returns a PHC string.
///
/// # Errors
/// If the system has no randomness.
pub fn hash_password(password: &str) -> Result<String, UsersFileError> {
    hash_with(&Argon2::default(), password)
}

fn hash_with(argon2: &Argon2<'_>, password: &str) -> Result<String, UsersFileError> {
    argon2.hash_password(password.as_bytes()).map(|hash| hash.to_string()).map_err(|_| UsersFileError::Hashing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Namespace};

    fn read(text: &str) -> Result<Users, UsersFileError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        let config = Config::default();
        Users::read(file.path(), &config, Permissions::new(&config.channels, &config.namespaces).into())
    }

    const HASH: &str =
        "$argon2id$v=19$m=19456,t=2,p=1$c29tZSBzYWx0IG9mIDE2$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    #[test]
    fn an_incomplete_password_hash_is_refused_at_start() {
        let of = |hash: &str| read(&format!("[[users]]\nname = \"ann\"\npassword = {hash:?}\n"));
        assert!(of(HASH).is_ok());
        for broken in [
            "$argon2id$",
            "$argon2id$x",
            &HASH[..HASH.len() - 44],
            &HASH[..HASH.rfind('c').expect("a salt")],
            &HASH.replace("m=19456", "m=1"),
            &HASH.replace("t=2", "t=0"),
            &HASH.replace("argon2id", "argon2i"),
            &HASH.replace('A', "!"),
            "right horse",
        ] {
            let message = of(broken).err().unwrap_or_else(|| panic!("{broken}")).to_string();
            assert!(message.contains("hash-password") && !message.contains(broken), "{message}");
        }
    }

    #[test]
    fn user_is_found_by_the_tag_of_its_logins() {
        let text = ["ann", "bob"].map(|name| format!("[[users]]\nname = \"{name}\"\npassword = {HASH:?}\n")).concat();
        let users = read(&text).unwrap();
        for name in ["ann", "bob"] {
            assert_eq!(users.find_by_tag(&user_tag(name)).map(|user| user.name.clone()), Some(name.to_owned()));
        }
        assert!(users.find_by_tag(&user_tag("cho")).is_none() && users.find_by_tag("").is_none());
    }

    #[test]
    fn a_user_logs_in_only_with_the_right_password() {
        let hash = hash_password("right horse").unwrap();
        let users =
            read(&format!("[[users]]\nname = \"ann\"\npassword = \"{hash}\"\ninfo = {{ name = \"Ann\" }}\n")).unwrap();
        let ann = users.verify("ann", "right horse").unwrap();
        assert_eq!(ann.claims.info.as_ref().unwrap().get(), r#"{"name":"Ann"}"#);
        assert!(users.verify("ann", "wrong").is_none());
        assert!(users.verify("bob", "right horse").is_none(), "the decoy is the hash of ann, but no user");
        assert_eq!(users.current.load().decoys.of("bob"), hash);
        assert!(read("").unwrap().verify("bob", decoys::DECOY_PASSWORD).is_none());
    }

    #[test]
    fn the_demo_user_logs_in_only_with_the_demo_password() {
        let users = Users::demo("right horse", &Config::default()).unwrap();
        assert!(users.verify(DEMO_USER, "right horse").is_some());
        assert!(users.verify(DEMO_USER, "wrong").is_none() && users.verify("ann", "right horse").is_none());
    }

    #[test]
    fn a_plaintext_password_is_refused_without_being_quoted() {
        for text in ["password = \"hunter22\"", "password = 42220", "pasword = \"hunter22\""] {
            let message = read(&format!("[[users]]\nname = \"ann\"\n{text}\n")).err().unwrap().to_string();
            assert!(message.contains("password"), "{message}");
            assert!(!message.contains("hunter22") && !message.contains("42220"), "{message}");
        }
        for (text, expected) in [
            ("users = [\"ann:hunter22\"]", "entry 1 of users: not a table"),
            ("users = \"hunter22\"", "users is not a list"),
            ("user = \"hunter22\"", "unknown key \"user\""),
            ("[[users]]\npassword = hunter22", "line 2 is not valid TOML"),
        ] {
            let message = read(text).err().unwrap().to_string();
            assert!(message.starts_with(expected) && !message.contains("hunter22"), "{message}");
        }
    }

    #[test]
    fn claims_that_a_token_could_not_carry_are_refused_with_the_name_of_the_user() {
        let entry = |more: &str| format!("[[users]]\nname = \"ann\"\npassword = {HASH:?}\n{more}\n");
        let good = "channels = [\"news\", \"#ann\"]\ncaps = [{ channels = [\"a*\"], match = \"wildcard\", allow = [\"pub\"] }]";
        let claims = read(&entry(good)).unwrap().current.load().by_name["ann"].claims.clone();
        assert_eq!(claims.channels.unwrap().get(), r##"["news","#ann"]"##);
        assert_eq!(claims.caps.unwrap().get(), r#"[{"allow":["pub"],"channels":["a*"],"match":"wildcard"}]"#);
        for bad in [
            "channels = [\"chat:x\"]",
            "channels = [\"dialog#bob\"]",
            "channels = [\"news\", \"news\"]",
            "channels = \"news\"",
            "channels = [1979-05-27]",
            "info = { born = 1979-05-27 }",
            "caps = [{ channels = [\"a\"], allow = [\"everything\"] }]",
            "caps = [{ channels = [\"(\"], match = \"regex\", allow = [] }]",
            &format!("info = \"{}\"", "x".repeat(4096)),
            &format!("info = \"{0}{0}\"\nchannels = [\"a{1}\", \"b{1}\", \"c{1}\"]", "x".repeat(2000), "x".repeat(250)),
        ] {
            let message = read(&entry(bad)).err().unwrap_or_else(|| panic!("{bad:.60}")).to_string();
            assert!(message.contains("\"ann\""), "{message}");
        }
        assert!(read(&(entry("") + &entry(""))).err().unwrap().to_string().contains("twice"));
        assert!(read(&format!("[[users]]\nname = \"\"\npassword = {HASH:?}\n")).is_err());
    }

    #[test]
    fn configuration_that_a_user_of_the_file_does_not_fit_is_refused_unless_the_file_is_at_fault() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |name: &str, more: &str| {
            std::fs::write(&file, format!("[[users]]\nname = {name:?}\npassword = {HASH:?}\n{more}")).unwrap();
        };
        write("p:ann", "channels = [\"news\", \"chat:1\"]\n");
        let mut before = Config::default();
        before.namespaces.push(Namespace { name: "chat".to_owned(), channels: before.channels.clone() });
        let permissions = Permissions::new(&before.channels, &before.namespaces).into();
        let users = Users::read(file.path(), &before, permissions).unwrap();
        let check = |change: &dyn Fn(&mut Config)| {
            let mut config = before.clone();
            change(&mut config);
            users.check_allowed_by(&config).map_err(|error| error.to_string())
        };
        let with_prefix = |config: &mut Config| {
            let entry = "id = \"k\"\nalgorithm = \"HS256\"\nfile = \"f\"\nuser_prefix = \"p:\"";
            config.auth.keys = vec![toml::from_str(entry).unwrap()];
        };
        let with_limit = |config: &mut Config| config.limits.channels_per_session = 1;
        let without_namespace = |config: &mut Config| config.namespaces.clear();
        assert_eq!(check(&|_| ()), Ok(()));
        for change in [&with_prefix as &dyn Fn(&mut Config), &with_limit, &without_namespace] {
            let error = check(change).unwrap_err();
            assert!(error.contains("\"p:ann\""), "{error}");
        }
        write("p:ann", "channels = [\"unknown:1\"]\n");
        assert_eq!(check(&with_prefix), Ok(()), "the reload of the file reports it");
        write("ann", "");
        assert_eq!(check(&with_prefix), Ok(()), "the file is checked as it is now");
    }
}
