//! Users in a file, for small systems and the first five minutes: names, argon2id hashes and what their tokens say.
//! Hashing is slow on purpose; whoever calls [`Users::check`] does so off the workers.

use std::{collections::HashMap, path::Path};

use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Longer passwords are refused before anything is computed.
pub const PASSWORD_BYTES: usize = 1024;

/// The login file.
pub struct Users {
    by_name: HashMap<String, User>,
    /// Checked for unknown names, so that they take as long as known ones.
    decoy: String,
}

/// One user.
#[derive(Debug)]
pub struct User {
    password_hash: String,
    /// `info` of the tokens, raw JSON.
    pub info: Option<Box<RawValue>>,
}

/// Why the login file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadUsers {
    /// Not readable.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Not a list of users.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// A hash that is none.
    #[error("the password of user {0:?} is not an argon2id hash; make one with: wardcast hash-password")]
    Hash(String),
    /// The system has no randomness or no memory.
    #[error("hashing failed")]
    Hashing,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    users: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    password: String,
    info: Option<toml::Value>,
}

impl Users {
    /// Reads the file.
    ///
    /// # Errors
    /// [`BadUsers`], which quotes no hash.
    pub fn read(path: &Path) -> Result<Self, BadUsers> {
        let file: File = toml::from_str(&std::fs::read_to_string(path)?)?;
        let mut by_name = HashMap::new();
        for Entry { name, password, info } in file.users {
            if !password.starts_with("$argon2id$") {
                return Err(BadUsers::Hash(name));
            }
            let info = info.and_then(|info| serde_json::value::to_raw_value(&info).ok());
            by_name.insert(name, User { password_hash: password, info });
        }
        Ok(Self { by_name, decoy: hash("a password that nobody has")? })
    }

    /// The user, if the password is right. Takes as long for unknown users as for wrong passwords.
    pub fn check(&self, name: &str, password: &str) -> Option<&User> {
        let user = self.by_name.get(name);
        let hash = user.map_or(self.decoy.as_str(), |user| user.password_hash.as_str());
        let is_right = Argon2::default().verify_password(password.as_bytes(), hash).is_ok();
        user.filter(|_| is_right)
    }
}

/// An argon2id hash with 19 MiB, two passes and a salt of its own (OWASP's minimum), as a PHC string.
///
/// # Errors
/// When the system gives no randomness.
pub fn hash(password: &str) -> Result<String, BadUsers> {
    Argon2::default().hash_password(password.as_bytes()).map(|hash| hash.to_string()).map_err(|_| BadUsers::Hashing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_gets_in_with_the_password_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let hash = hash("right horse").unwrap();
        std::fs::write(
            &file,
            format!("[[users]]\nname = \"ann\"\npassword = \"{hash}\"\ninfo = {{ name = \"Ann\" }}\n"),
        )
        .unwrap();
        let users = Users::read(file.path()).unwrap();
        assert_eq!(users.check("ann", "right horse").unwrap().info.as_ref().unwrap().get(), r#"{"name":"Ann"}"#);
        assert!(users.check("ann", "wrong").is_none());
        assert!(users.check("bob", "right horse").is_none());
        assert!(users.check("bob", "a password that nobody has").is_none(), "the decoy is nobody");
    }

    #[test]
    fn a_password_in_the_clear_is_refused_without_being_quoted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "[[users]]\nname = \"ann\"\npassword = \"hunter22\"\n").unwrap();
        let told = Users::read(file.path()).err().unwrap().to_string();
        assert!(told.contains("hash-password") && !told.contains("hunter22"), "{told}");
    }
}
