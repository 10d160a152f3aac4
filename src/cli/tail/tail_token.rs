//! The tokens with which `sub` connects: those of a file, or its own.

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use serde_json::json;

use crate::{
    auth::Signer,
    channel::Channel,
    cli::{arguments::SubArguments, token, token_input::find_token},
    config::Config,
};

/// Lifetime of the tokens that `sub` signs; `auth.max_ttl` may be shorter.
const TTL: Duration = Duration::from_secs(15 * 60);
/// The user of these tokens, unless the channels are for certain users.
const USER: &str = "wardcast-sub";

/// Where the tokens come from.
pub(super) enum TokenSource {
    /// A file, which is read for each connection and each refresh, so that it may be replaced meanwhile.
    File(PathBuf),
    /// Signed with the hub's own secret. They grant the channels, and keep the subscriber out of presence, joins and leaves.
    Signed(Box<Signed>),
}

/// What a signed token needs.
pub(super) struct Signed {
    signer: Signer,
    user: String,
    ttl: Duration,
    claims: ObserverClaims,
}

/// The claims that let a session observe channels.
#[derive(serde::Serialize)]
struct ObserverClaims {
    subs: serde_json::Value,
    caps: serde_json::Value,
}

impl TokenSource {
    /// Returns the source that the arguments name.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(super) fn new(config: &Config, arguments: &SubArguments) -> Result<Self, String> {
        if let Some(file) = &arguments.token_file {
            return Ok(Self::File(file.clone()));
        }
        let signer = token::signer(config).ok_or(NO_SECRET)?;
        let user = match &arguments.user {
            Some(user) => user.clone(),
            None => user_of(&arguments.channels)?,
        };
        let options = json!({"override": {
            "presence": {"value": false}, "join_leave": {"value": false}, "force_recovery": {"value": true},
        }});
        let subs = arguments.channels.iter().map(|channel| (channel.clone(), options.clone())).collect();
        let caps = json!([{"channels": arguments.channels, "allow": ["hst"]}]);
        let claims = ObserverClaims { subs: serde_json::Value::Object(subs), caps };
        Ok(Self::Signed(Box::new(Signed { signer, user, ttl: TTL.min(config.auth.max_ttl), claims })))
    }

    /// Returns a token.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(super) fn read(&self) -> Result<String, String> {
        match self {
            Self::File(path) => {
                let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
                find_token(&text).map(str::to_owned).map_err(|problem| format!("{}: {problem}", path.display()))
            }
            Self::Signed(signed) => {
                let Signed { signer, user, ttl, claims } = &**signed;
                signer.sign_with(user, *ttl, claims).map_err(|error| error.to_string())
            }
        }
    }

    /// Returns what to do after the hub has closed a connection with this code.
    pub(super) fn advice(&self, code: u16) -> &'static str {
        match (code, self) {
            (3500, Self::File(_)) => "; wardcast check-token says what is wrong with the token",
            (3500, Self::Signed(_)) => WRONG_SECRET,
            _ => "",
        }
    }
}

/// Returns a user who may subscribe to all of the channels.
fn user_of(channels: &[String]) -> Result<String, String> {
    let mut common: Option<BTreeSet<String>> = None;
    for name in channels {
        let channel = Channel::new(name).map_err(|error| format!("{name}: {error}"))?;
        let Some(users) = channel.users() else { continue };
        let users = users.map(str::to_owned).collect();
        common = Some(match common {
            None => users,
            Some(others) => others.intersection(&users).cloned().collect(),
        });
    }
    match common.map(|users| users.into_iter().next()) {
        None => Ok(USER.to_owned()),
        Some(Some(user)) => Ok(user),
        Some(None) => Err("these channels are for different users; run one command for each".to_owned()),
    }
}

const NO_SECRET: &str = "auth.hmac_secret is not set, and this user has run no development hub that kept its secrets, so this command \
    cannot sign a token; give it the configuration of the hub (--config FILE), or a token (--token-file FILE)";

const WRONG_SECRET: &str = "; the hub has another secret, or does not know a namespace of these channels: its log says which; give \
    this command the configuration of the hub (--config FILE)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_of_the_token_may_subscribe_to_every_channel() {
        let user = |channels: &[&str]| user_of(&channels.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        assert_eq!(user(&["news", "game:1"]).as_deref(), Ok(USER));
        assert_eq!(user(&["news", "#42"]).as_deref(), Ok("42"));
        assert_eq!(user(&["dialog#42,43", "#43"]).as_deref(), Ok("43"));
        assert!(user(&["#42", "#43"]).unwrap_err().contains("different users"));
        assert!(user(&["a\u{200b}"]).is_err());
    }
}
