//! The keys of the login, which are derived from its secret: they sign access tokens, make refresh tokens, and name failed logins. A
//! reload that changes the secret replaces all of them.

use super::{RefreshTokens, Signer, login_backoff::FailureNames};
use crate::{clock::Clock, config::Config};

/// The keys of the login.
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
