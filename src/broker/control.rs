//! Orders of the server API to the sessions of a user, wherever they are.

use serde::{Deserialize, Serialize, de::IgnoredAny};

use crate::{
    channel::Channel,
    protocol::{Disconnect, ErrorCode},
};

/// Longest user, as in a token.
const USER_BYTES: usize = 255;
/// Longest id of a connection that is taken; ours are shorter.
const CLIENT_BYTES: usize = 64;
/// Connections that an order may spare: each session looks through them.
const WHITELIST: usize = 1000;
/// Longest JSON that replaces what others see of a user: every session keeps one, every publication carries it.
const INFO_BYTES: usize = 4096;
/// Longest name of a history that is taken; ours are shorter.
const EPOCH_BYTES: usize = 64;

/// An order to sessions, on all instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Whose sessions.
    pub user: String,
    /// Only the connection with this id.
    pub client: Option<String>,
    /// All connections but those with these ids.
    pub whitelist: Vec<String>,
    /// What they have to do.
    #[serde(rename = "order")]
    pub action: ControlAction,
}

/// What sessions have to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum ControlAction {
    /// Receive a channel (subscribe push); where it is received already, nothing changes.
    Subscribe {
        /// Its name, checked; the channel's namespace is judged by whoever carries it out, too.
        channel: String,
        /// Raw JSON that others see of this subscription.
        info: Option<String>,
        /// Raw JSON that the client is told with the push.
        data: Option<String>,
        /// The client has what was published up to there, and gets what came later.
        #[serde(rename = "since")]
        recover_since: Option<RecoverSince>,
        /// Milliseconds since the epoch; `None`: it lasts as long as the session.
        expires_at: Option<i64>,
    },
    /// Stop receiving a channel (unsubscribe push 2000).
    Unsubscribe {
        /// Its name, checked.
        channel: String,
    },
    /// Go.
    Disconnect {
        /// The close code, 3000 to 4999.
        code: u16,
        /// At most 123 bytes.
        reason: String,
    },
    /// End at another time than the token says.
    Refresh {
        /// Milliseconds since the epoch; `None`: it does not end by itself.
        expires_at: Option<i64>,
        /// Raw JSON that replaces what others see of the user.
        info: Option<String>,
    },
}

/// A place in a history, as the API names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoverSince {
    /// Its offset.
    pub offset: u64,
    /// Its epoch, at most 64 bytes; what was never said by a broker is no epoch of a channel here. Empty: any.
    pub epoch: String,
}

/// Why a [`Control`] is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Empty, over 255 bytes, or with control characters.
    #[error("a user has 1 to 255 bytes without controls")]
    InvalidUser,
    /// An id that no connection can have.
    #[error("a connection's id has 1 to 64 bytes")]
    InvalidClientId,
    /// Not the name of a channel.
    #[error("not the name of a channel")]
    InvalidChannel,
    /// A code or reason that no close frame of ours may carry.
    #[error("close codes are 3000 to 4999, reasons have at most 123 bytes and are not JSON")]
    InvalidClose,
    /// Not JSON on one line.
    #[error("info and data must be JSON on one line")]
    InvalidJson,
    /// More than an order may carry: over 1,000 spared connections, over 4 KiB of info or data, over 64 bytes of epoch.
    #[error("over 1,000 spared connections, 4096 bytes of info or data, or 64 bytes of epoch")]
    TooLong,
}

/// The error that a caller of the server API gets.
impl From<ControlError> for ErrorCode {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::TooLong => Self::LimitExceeded,
            ControlError::InvalidUser
            | ControlError::InvalidClientId
            | ControlError::InvalidChannel
            | ControlError::InvalidClose
            | ControlError::InvalidJson => Self::BadRequest,
        }
    }
}

impl Control {
    /// Checks that sessions can do it. Whoever makes one asks, and whoever takes one from outside asks again.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn validate(&self) -> Result<(), ControlError> {
        if self.user.is_empty() || self.user.len() > USER_BYTES || self.user.contains(char::is_control) {
            return Err(ControlError::InvalidUser);
        }
        if self.whitelist.len() > WHITELIST {
            return Err(ControlError::TooLong);
        }
        if self.client.iter().chain(&self.whitelist).any(|client| client.is_empty() || client.len() > CLIENT_BYTES) {
            return Err(ControlError::InvalidClientId);
        }
        match &self.action {
            ControlAction::Subscribe { channel, info, data, recover_since, .. } => {
                is_channel(channel)?;
                info.iter().chain(data).try_for_each(|raw| is_line(raw))?;
                let is_short = recover_since.as_ref().is_none_or(|since| since.epoch.len() <= EPOCH_BYTES);
                if is_short { Ok(()) } else { Err(ControlError::TooLong) }
            }
            ControlAction::Unsubscribe { channel } => is_channel(channel),
            ControlAction::Disconnect { code, reason } => {
                if Disconnect::custom(*code, reason).is_some() {
                    Ok(())
                } else {
                    Err(ControlError::InvalidClose)
                }
            }
            ControlAction::Refresh { info, .. } => info.iter().try_for_each(|raw| is_line(raw)),
        }
    }
}

fn is_channel(name: &str) -> Result<(), ControlError> {
    Channel::new(name).map(|_| ()).map_err(|_| ControlError::InvalidChannel)
}

/// Whether it is JSON that may go into a reply as it is.
fn is_line(raw: &str) -> Result<(), ControlError> {
    match raw {
        _ if raw.len() > INFO_BYTES => Err(ControlError::TooLong),
        _ if raw.contains(['\r', '\n']) || !is_json(raw) => Err(ControlError::InvalidJson),
        _ => Ok(()),
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(action: ControlAction) -> Control {
        Control { user: "ann".to_owned(), client: None, whitelist: Vec::new(), action }
    }

    fn close(code: u16, reason: &str) -> Control {
        control(ControlAction::Disconnect { code, reason: reason.to_owned() })
    }

    fn refresh(info: &str) -> Control {
        control(ControlAction::Refresh { expires_at: None, info: Some(info.to_owned()) })
    }

    fn unsubscribe(channel: &str) -> Control {
        control(ControlAction::Unsubscribe { channel: channel.to_owned() })
    }

    fn subscribe(channel: &str, info: Option<&str>, data: Option<&str>, epoch: &str) -> Control {
        let text = |raw: Option<&str>| raw.map(str::to_owned);
        let recover_since = Some(RecoverSince { offset: u64::MAX, epoch: epoch.to_owned() });
        let channel = channel.to_owned();
        control(ControlAction::Subscribe {
            channel,
            info: text(info),
            data: text(data),
            recover_since,
            expires_at: Some(i64::MIN),
        })
    }

    #[test]
    fn valid_controls_are_accepted() {
        let spared = vec!["x".repeat(64); 1000];
        for good in [
            close(3000, ""),
            close(4999, &"x".repeat(123)),
            unsubscribe("news"),
            subscribe("news", None, Some("[1]"), ""),
            subscribe("chat:1", Some("{}"), Some(&format!("\"{}\"", "x".repeat(4094))), &"x".repeat(64)),
            refresh("null"),
            refresh(&format!("\"{}\"", "x".repeat(4094))),
            control(ControlAction::Refresh { expires_at: Some(i64::MIN), info: None }),
            Control { user: "é".repeat(127), client: Some("c".to_owned()), whitelist: spared, ..close(3503, "go") },
        ] {
            assert_eq!(good.validate(), Ok(()), "{good:?}");
        }
    }

    #[test]
    fn invalid_controls_are_rejected() {
        let named = |user: &str| Control { user: user.to_owned(), ..close(3503, "go") };
        let only = |client: &str| Control { client: Some(client.to_owned()), ..close(3503, "go") };
        let but = |whitelist| Control { whitelist, ..close(3503, "go") };
        for (bad, why) in [
            (named(""), ControlError::InvalidUser),
            (named(&"x".repeat(256)), ControlError::InvalidUser),
            (named("a\0"), ControlError::InvalidUser),
            (only(""), ControlError::InvalidClientId),
            (only(&"x".repeat(65)), ControlError::InvalidClientId),
            (but(vec![String::new()]), ControlError::InvalidClientId),
            (but(vec!["x".to_owned(); 1001]), ControlError::TooLong),
            (unsubscribe("a*"), ControlError::InvalidChannel),
            (unsubscribe(""), ControlError::InvalidChannel),
            (subscribe("a*", None, None, ""), ControlError::InvalidChannel),
            (subscribe("a", Some("{"), None, ""), ControlError::InvalidJson),
            (subscribe("a", None, Some("[1,\n2]"), ""), ControlError::InvalidJson),
            (subscribe("a", None, Some(&format!("\"{}\"", "x".repeat(4095))), ""), ControlError::TooLong),
            (subscribe("a", None, None, &"x".repeat(65)), ControlError::TooLong),
            (close(2999, ""), ControlError::InvalidClose),
            (close(5000, ""), ControlError::InvalidClose),
            (close(1000, ""), ControlError::InvalidClose),
            (close(3503, &"x".repeat(124)), ControlError::InvalidClose),
            (close(3503, "{}"), ControlError::InvalidClose),
            (close(3503, " 7 "), ControlError::InvalidClose),
            (refresh("{"), ControlError::InvalidJson),
            (refresh(""), ControlError::InvalidJson),
            (refresh("[1,\n2]"), ControlError::InvalidJson),
            (refresh("1 2"), ControlError::InvalidJson),
            (refresh(&format!("\"{}\"", "x".repeat(4095))), ControlError::TooLong),
        ] {
            assert_eq!(bad.validate(), Err(why), "{bad:?}");
        }
    }
}
