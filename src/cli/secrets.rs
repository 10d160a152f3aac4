//! Random secrets, for development runs and for `init`.

use std::fmt::Write;

use serde::Deserialize;

use crate::config::{Config, MIN_DEMO_PASSWORD_BYTES, MIN_SECRET_BYTES, Secret, find_weakness};

/// Returns 32 random bytes in hexadecimal.
pub(super) fn random_hex() -> Result<String, String> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|error| format!("the system provides no random bytes: {error}"))?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// Returns a random password that is easy to copy: 64 bits, of which a login permits a few guesses per minute.
pub(super) fn random_password() -> Result<String, String> {
    Ok(random_hex()?[..16].to_owned())
}

/// Secrets for development hubs whose configuration does not set them, in the form of a configuration.
#[derive(Deserialize)]
pub(super) struct DevelopmentSecrets {
    auth: AuthSecrets,
    api: ApiSecrets,
    login: LoginSecrets,
}

#[derive(Deserialize)]
struct AuthSecrets {
    hmac_secret: Secret,
}

#[derive(Deserialize)]
struct ApiSecrets {
    key: Secret,
}

#[derive(Deserialize)]
struct LoginSecrets {
    key: Secret,
    demo_password: Secret,
}

impl DevelopmentSecrets {
    pub(super) fn generate() -> Result<Self, String> {
        let random = || random_hex().map(Secret::new);
        Ok(Self {
            auth: AuthSecrets { hmac_secret: random()? },
            api: ApiSecrets { key: random()? },
            login: LoginSecrets { key: random()?, demo_password: Secret::new(random_password()?) },
        })
    }

    /// Returns the secret for `auth.hmac_secret`.
    pub(super) fn hmac_secret(&self) -> &Secret {
        &self.auth.hmac_secret
    }

    /// Returns these secrets with the one for `auth.hmac_secret` as `login.key`, too: for a hub whose login it signs.
    pub(super) fn with_one_signing_secret(self) -> Self {
        let key = self.auth.hmac_secret.clone();
        Self { login: LoginSecrets { key, ..self.login }, ..self }
    }

    /// Parses what [`Self::to_toml`] has returned. `None` if a secret is missing or too weak for a hub.
    pub(super) fn from_toml(text: &str) -> Option<Self> {
        let secrets: Self = toml::from_str(text).ok()?;
        let Self { auth, api, login } = &secrets;
        let is_strong = |secret: &Secret, min_bytes| find_weakness(secret.expose().as_bytes(), min_bytes).is_none();
        let are_strong = [&auth.hmac_secret, &api.key, &login.key].iter().all(|key| is_strong(key, MIN_SECRET_BYTES));
        (are_strong && is_strong(&login.demo_password, MIN_DEMO_PASSWORD_BYTES)).then_some(secrets)
    }

    /// Returns the secrets as TOML.
    pub(super) fn to_toml(&self) -> String {
        let Self { auth, api, login } = self;
        format!(
            "[auth]\nhmac_secret = \"{}\"\n\n[api]\nkey = \"{}\"\n\n[login]\nkey = \"{}\"\ndemo_password = \"{}\"\n",
            auth.hmac_secret.expose(),
            api.key.expose(),
            login.key.expose(),
            login.demo_password.expose(),
        )
    }
}

/// A secret that the configuration does not set, and which of the development secrets replaces it.
type MissingSecret<'a> = (&'a mut Secret, fn(&DevelopmentSecrets) -> &Secret);

/// Returns the secrets that a development hub needs and its configuration does not set. With `auth.keys` that is
/// `login.key` instead of `auth.hmac_secret`: its tokens have a `kid`, so tokens without one are still verified with the
/// configured keys.
fn missing(config: &mut Config) -> Vec<MissingSecret<'_>> {
    let has_login_id = config.auth.keys.iter().any(|key| key.id == "login");
    let signs = has_signing_secret(config);
    let needs_hmac_secret = config.auth.keys.is_empty() && config.auth.hmac_secret.is_empty();
    let needs_login_key = !config.auth.keys.is_empty() && !signs && !has_login_id;
    // No demo user if the hub would refuse the tokens of the login.
    let can_sign = signs || needs_hmac_secret || needs_login_key;
    let needs_demo_user = can_sign && !config.login.is_enabled() && config.auth.login_tokens_have_required_claims();
    let candidates: [(bool, MissingSecret<'_>); 4] = [
        (needs_hmac_secret, (&mut config.auth.hmac_secret, |secrets| &secrets.auth.hmac_secret)),
        (needs_login_key, (&mut config.login.key, |secrets| &secrets.login.key)),
        (config.api.key.is_empty(), (&mut config.api.key, |secrets| &secrets.api.key)),
        (needs_demo_user, (&mut config.login.demo_password, |secrets| &secrets.login.demo_password)),
    ];
    candidates.into_iter().filter(|(is_missing, _)| *is_missing).map(|(_, missing)| missing).collect()
}

/// Returns whether the configuration has a secret that signs tokens.
pub(super) fn has_signing_secret(config: &Config) -> bool {
    !config.auth.hmac_secret.is_empty() || !config.login.key.is_empty()
}

/// Returns whether a development hub needs secrets that its configuration does not set.
pub(super) fn is_incomplete(config: &mut Config) -> bool {
    !missing(config).is_empty()
}

/// Sets the secrets that a development hub needs and its configuration does not set.
pub(super) fn fill_missing(config: &mut Config, secrets: &DevelopmentSecrets) {
    for (secret, replacement) in missing(config) {
        *secret = replacement(secrets).clone();
    }
}
