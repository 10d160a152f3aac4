//! What the login makes with its secret, which a reload may change.

use super::{RefreshTokens, Signer, login_backoff::FailureNames};
use crate::{clock::Clock, config::Config};

/// What the login makes with its secret.
pub struct LoginKeys {
    /// Signs the access tokens of the login.
    pub signer: Signer,
    /// Makes and reads the refresh tokens of the login.
    pub refresh_tokens: RefreshTokens,
    /// Makes the names under which the broker counts failed logins.
    pub failure_names: FailureNames,
}

impl LoginKeys {
    /// Takes `login.key`, or `auth.hmac_secret` if that is not set.
    pub fn new(config: &Config, clock: Clock) -> Self {
        Self {
            signer: Signer::for_login(&config.auth, &config.login.key, clock),
            refresh_tokens: RefreshTokens::new(config.login_secret()),
            failure_names: FailureNames::new(config.login_secret()),
        }
    }
}
