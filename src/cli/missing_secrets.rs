//! The secrets of a development hub that its configuration does not set, from its start to its end.

use super::{
    banner::GeneratedSecrets,
    secrets::{self, DevelopmentSecrets},
    secrets_file::SecretsFile,
    state_directory::StateFileError,
};
use crate::config::Config;

/// Sets the secrets that configurations lack: those that this user's hubs have kept, or new ones. A configuration that lacks one
/// after a reload never gets it from the configuration before: a secret that was removed stays removed.
pub(super) struct MissingSecrets<'a> {
    /// Where the secrets are kept; `None` with `--ephemeral`.
    file: Option<&'a SecretsFile>,
    /// The secrets, and where they are from. `None` until a configuration lacks one.
    used: Option<(DevelopmentSecrets, GeneratedSecrets)>,
}

impl<'a> MissingSecrets<'a> {
    /// Creates the secrets of one hub. Reads and generates nothing yet.
    pub(super) fn new(file: Option<&'a SecretsFile>) -> Self {
        Self { file, used: None }
    }

    /// Sets the secrets that a configuration lacks. Returns where they are from. If they cannot be kept, they are those of this run.
    ///
    /// # Errors
    /// The file cannot be trusted, or the system has no randomness.
    pub(super) fn complete(&mut self, config: &mut Config) -> Result<GeneratedSecrets, String> {
        if !secrets::is_incomplete(config) {
            return Ok(GeneratedSecrets::None);
        }
        let (used, source) = match self.used.take() {
            Some(used) => used,
            None => self.obtain()?,
        };
        secrets::fill_missing(config, &used);
        // What signs the tokens of the login goes on doing so when a reload adds `auth.keys`, after which only `login.key` can.
        let signs_login = config.login_secret() == used.hmac_secret();
        let used = if signs_login { used.with_one_signing_secret() } else { used };
        self.used = Some((used, source.clone()));
        Ok(source)
    }

    fn obtain(&self) -> Result<(DevelopmentSecrets, GeneratedSecrets), String> {
        if let Some(file) = self.file {
            match file.read_or_create() {
                Ok(kept) => return Ok((kept, GeneratedSecrets::Kept(file.path()))),
                Err(StateFileError::Io { path, error }) => {
                    log::warn!(
                        "cannot keep the generated secrets, they are for this run only file={path:?} error={:?}",
                        error.to_string()
                    );
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok((DevelopmentSecrets::generate()?, GeneratedSecrets::ForThisRun))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn with_keys() -> Config {
        let mut config = Config::default();
        config.auth.keys = vec![toml::from_str("id = \"k\"\nalgorithm = \"HS256\"\nfile = \"f\"").unwrap()];
        config
    }

    #[test]
    fn secret_that_a_reload_removes_is_replaced_by_a_generated_one() {
        let removed = Secret::new("a secret that was set, 32 bytes or more");
        let (mut secrets, mut started) = (MissingSecrets::new(None), Config::default());
        started.auth.hmac_secret = removed.clone();
        secrets.complete(&mut started).unwrap();
        assert_eq!(started.auth.hmac_secret, removed);
        let (mut reloaded, mut again, mut by_keys) = (Config::default(), Config::default(), with_keys());
        for config in [&mut reloaded, &mut again, &mut by_keys] {
            secrets.complete(config).unwrap();
        }
        assert!(reloaded.auth.hmac_secret != removed && !reloaded.auth.hmac_secret.is_empty());
        assert_eq!(reloaded.auth.hmac_secret, again.auth.hmac_secret, "the same until the hub ends");
        assert!(by_keys.login.key != removed && !by_keys.login.key.is_empty());
    }

    #[test]
    fn generated_secret_that_signs_the_login_goes_on_when_keys_are_added() {
        let (mut secrets, mut started, mut by_keys) = (MissingSecrets::new(None), Config::default(), with_keys());
        secrets.complete(&mut started).unwrap();
        secrets.complete(&mut by_keys).unwrap();
        assert_eq!(started.login_secret(), by_keys.login_secret());
        assert!(by_keys.auth.hmac_secret.is_empty());
        let mut without_keys = Config::default();
        secrets.complete(&mut without_keys).unwrap();
        assert_eq!(started.login_secret(), without_keys.login_secret());
    }
}
