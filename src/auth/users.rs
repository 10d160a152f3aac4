//! Users in a file, for small systems and the first five minutes: names, argon2id hashes and what their tokens say.
//! Hashing is slow on purpose; whoever calls [`Users::check`] does so off the workers.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use argon2::{Argon2, Params, PasswordHasher, PasswordVerifier, password_hash::phc::PasswordHash};
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

use super::{
    Permissions,
    grants::{GrantContext, MAX_INFO_BYTES, RawGrants},
    payload::is_valid_user,
};

/// Longer passwords are refused before anything is computed.
pub const MAX_PASSWORD_BYTES: usize = 1024;
/// The most that `info`, `channels` and `caps` of one user may take: with the rest of it, the token is still read.
const MAX_CLAIMS_BYTES: usize = 4608;

/// The only user where there is no file (`login.demo_password`).
pub const DEMO_USER: &str = "demo";

/// Who may log in: the users of a file as it was last read, or the demo user.
pub struct Users {
    current: ArcSwap<UserList>,
    source: Option<UsersSource>,
}

/// The file and what its users are held against.
struct UsersSource {
    path: PathBuf,
    permissions: Arc<Permissions>,
    channels_per_session: usize,
}

struct UserList {
    by_name: HashMap<String, Arc<User>>,
    /// Checked for unknown names, so that they take as long as known ones: the first user's own hash, as hashes made
    /// elsewhere may take longer than ours.
    decoy: String,
}

/// One user. It has no `Debug`: nothing may print a hash.
pub struct User {
    password_hash: String,
    /// What tokens of the user say.
    pub claims: UserClaims,
}

/// What the login file puts into a user's tokens beside the name, each as raw JSON in the shape that tokens have.
#[derive(Clone, Debug, Default)]
pub struct UserClaims {
    /// `info`: others see it.
    pub info: Option<Box<RawValue>>,
    /// `channels`: subscribed to without asking.
    pub channels: Option<Box<RawValue>>,
    /// `caps`.
    pub caps: Option<Box<RawValue>>,
}

/// Why the login file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UsersFileError {
    /// Not readable.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// Not a list of users.
    #[error(
        "line {line}: {problem}; the file is a list of [[users]] with name and password (text), and perhaps info, channels and caps"
    )]
    Toml {
        /// Where.
        line: usize,
        /// What, without any value.
        problem: String,
    },
    /// A hash that is none.
    #[error("the password of user {0:?} is not an argon2id hash; make one with: wardcast hash-password")]
    Hash(String),
    /// A name that tokens cannot have, or that another user has.
    #[error("user {0:?} {1}")]
    Name(String, &'static str),
    /// What no token could say.
    #[error("info, channels or caps of user {0:?} would be refused in a token: {1}")]
    Claims(String, &'static str),
    /// The system has no randomness or no memory.
    #[error("hashing failed")]
    Hashing,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UsersFile {
    #[serde(default)]
    users: Vec<UserEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserEntry {
    name: String,
    password: String,
    info: Option<toml::Value>,
    channels: Option<toml::Value>,
    caps: Option<toml::Value>,
}

impl Users {
    /// Reads the file. What it grants is judged as it would be in a token: `channels_per_session` is the limit of that name.
    ///
    /// # Errors
    /// [`UsersFileError`], which quotes no hash.
    pub fn read(
        path: &Path,
        permissions: Arc<Permissions>,
        channels_per_session: usize,
    ) -> Result<Self, UsersFileError> {
        let source = UsersSource { path: path.to_owned(), permissions, channels_per_session };
        Ok(Self { current: ArcSwap::from_pointee(source.read()?), source: Some(source) })
    }

    /// One user without a file: [`DEMO_USER`], with this password and with nothing in the tokens but the name.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn demo(password: &str) -> Result<Self, UsersFileError> {
        // As light as can be: it never lies on a disk, and the 19 MiB of a real one would stay with the process, and in
        // every figure of a hub that is measured in development.
        let light = Argon2::from(Params::new(Params::MIN_M_COST, 1, 1, None).map_err(|_| UsersFileError::Hashing)?);
        let decoy = hash_with(&light, password)?;
        let user = User { password_hash: decoy.clone(), claims: UserClaims::default() };
        let by_name = HashMap::from([(DEMO_USER.to_owned(), Arc::new(user))]);
        Ok(Self { current: ArcSwap::from_pointee(UserList { by_name, decoy }), source: None })
    }

    /// Reads the file again, if there is one, and says so. Tokens that are given out stay as they are.
    ///
    /// # Errors
    /// When it is no good; then everything stays as it was.
    pub fn reload(&self) -> Result<bool, UsersFileError> {
        let Some(source) = &self.source else { return Ok(false) };
        self.current.store(Arc::new(source.read()?));
        Ok(true)
    }

    /// The user, if the password is right. Takes as long for unknown users as for wrong passwords.
    pub fn verify(&self, name: &str, password: &str) -> Option<Arc<User>> {
        let list = self.current.load_full();
        let user = list.by_name.get(name);
        let hash = user.map_or(list.decoy.as_str(), |user| user.password_hash.as_str());
        let is_right = Argon2::default().verify_password(password.as_bytes(), hash).is_ok();
        user.filter(|_| is_right).cloned()
    }
}

impl UsersSource {
    fn read(&self) -> Result<UserList, UsersFileError> {
        let read = std::fs::read_to_string(&self.path);
        let text = read.map_err(|error| UsersFileError::Io { path: self.path.clone(), error })?;
        let file: UsersFile = toml::from_str(&text).map_err(|error| toml_error(&text, &error))?;
        let first = file.users.first().map(|entry| entry.password.clone());
        let mut by_name = HashMap::new();
        for entry in file.users {
            let (name, password_hash) = (entry.name.clone(), entry.password.clone());
            if !is_complete_hash(&password_hash) {
                return Err(UsersFileError::Hash(name));
            }
            if !is_valid_name(&name) {
                return Err(UsersFileError::Name(name, "has a name that is empty, too long or has control characters"));
            }
            let (permissions, max_subscriptions) = (&*self.permissions, self.channels_per_session);
            let context = GrantContext { permissions, max_subscriptions, user: &name, now: 0 };
            let claims = entry.claims(context).map_err(|problem| UsersFileError::Claims(name.clone(), problem))?;
            if by_name.insert(name.clone(), Arc::new(User { password_hash, claims })).is_some() {
                return Err(UsersFileError::Name(name, "is there twice; which password counts?"));
            }
        }
        let decoy = first.map_or_else(|| hash_password("a password that nobody has"), Ok)?;
        Ok(UserList { by_name, decoy })
    }
}

/// Whether a user may have this name.
pub fn is_valid_name(text: &str) -> bool {
    !text.is_empty() && is_valid_user(text)
}

/// Whether it is a whole argon2id hash. One that breaks off is refused in no time: whoever has it could never log in, and
/// would be told from those who are unknown by that.
fn is_complete_hash(text: &str) -> bool {
    let is_whole = |hash: PasswordHash| hash.salt.is_some() && hash.hash.is_some() && Params::try_from(&hash).is_ok();
    text.starts_with("$argon2id$") && PasswordHash::new(text).is_ok_and(is_whole)
}

/// TOML's own words only where they name a key: of a wrong type they quote the value, which may be a password.
fn toml_error(text: &str, error: &toml::de::Error) -> UsersFileError {
    let line = error.span().map_or(1, |span| 1 + text.bytes().take(span.start).filter(|byte| *byte == b'\n').count());
    let names_a_key = ["unknown field", "missing field"].iter().any(|start| error.message().starts_with(start));
    let problem = if names_a_key { error.message() } else { "not TOML, or a value of a wrong type" };
    UsersFileError::Toml { line, problem: problem.to_owned() }
}

impl UserEntry {
    /// What the user's tokens say, if tokens may say it.
    fn claims(self, context: GrantContext<'_>) -> Result<UserClaims, &'static str> {
        let raw = |value: Option<toml::Value>| value.map(|value| to_raw_value(&value)).transpose();
        let read = |value| raw(value).map_err(|_| "not to be written as JSON");
        let claims = UserClaims { info: read(self.info)?, channels: read(self.channels)?, caps: read(self.caps)? };
        let UserClaims { info, channels, caps } = &claims;
        if info.as_ref().is_some_and(|info| info.get().contains("$__toml_private")) {
            return Err("info has a date; write it as text");
        }
        RawGrants { channels: channels.as_deref(), subs: None, caps: caps.as_deref() }.validate(context)?;
        let bytes = |raw: &Option<Box<RawValue>>| raw.as_ref().map_or(0, |raw| raw.get().len());
        if bytes(info) > MAX_INFO_BYTES {
            return Err("info too long");
        }
        if bytes(info) + bytes(channels) + bytes(caps) > MAX_CLAIMS_BYTES {
            return Err("together they make the token too long");
        }
        Ok(claims)
    }
}

/// An argon2id hash with 19 MiB, two passes and a salt of its own (OWASP's minimum), as a PHC string.
///
/// # Errors
/// When the system gives no randomness.
pub fn hash_password(password: &str) -> Result<String, UsersFileError> {
    hash_with(&Argon2::default(), password)
}

fn hash_with(argon2: &Argon2<'_>, password: &str) -> Result<String, UsersFileError> {
    argon2.hash_password(password.as_bytes()).map(|hash| hash.to_string()).map_err(|_| UsersFileError::Hashing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn read(text: &str) -> Result<Users, UsersFileError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        let config = Config::default();
        Users::read(file.path(), Permissions::new(&config.channels, &config.namespaces).into(), 128)
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
            let told = of(broken).err().unwrap_or_else(|| panic!("{broken}")).to_string();
            assert!(told.contains("hash-password") && !told.contains(broken), "{told}");
        }
    }

    #[test]
    fn a_user_logs_in_only_with_the_right_password() {
        let hash = hash_password("right horse").unwrap();
        let users =
            read(&format!("[[users]]\nname = \"ann\"\npassword = \"{hash}\"\ninfo = {{ name = \"Ann\" }}\n")).unwrap();
        let ann = users.verify("ann", "right horse").unwrap();
        assert_eq!(ann.claims.info.as_ref().unwrap().get(), r#"{"name":"Ann"}"#);
        assert!(users.verify("ann", "wrong").is_none());
        assert!(users.verify("bob", "right horse").is_none(), "the decoy is nobody, though it is ann's hash");
        assert_eq!(users.current.load().decoy, hash);
        assert!(read("").unwrap().verify("bob", "a password that nobody has").is_none());
    }

    #[test]
    fn the_demo_user_logs_in_only_with_the_demo_password() {
        let users = Users::demo("right horse").unwrap();
        assert!(users.verify(DEMO_USER, "right horse").is_some());
        assert!(users.verify(DEMO_USER, "wrong").is_none() && users.verify("ann", "right horse").is_none());
    }

    #[test]
    fn a_plaintext_password_is_refused_without_being_quoted() {
        for text in ["password = \"hunter22\"", "password = 42220", "pasword = \"hunter22\""] {
            let told = read(&format!("[[users]]\nname = \"ann\"\n{text}\n")).err().unwrap().to_string();
            assert!(told.contains("password"), "{told}");
            assert!(!told.contains("hunter22") && !told.contains("42220"), "{told}");
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
            let told = read(&entry(bad)).err().unwrap_or_else(|| panic!("{bad:.60}")).to_string();
            assert!(told.contains("\"ann\""), "{told}");
        }
        assert!(read(&(entry("") + &entry(""))).err().unwrap().to_string().contains("twice"));
        assert!(read(&format!("[[users]]\nname = \"\"\npassword = {HASH:?}\n")).is_err());
    }
}
