//! Controls: what the server API tells the sessions of a user to do, on all instances.

use serde::{Deserialize, Serialize, de::IgnoredAny};

use crate::{
    channel::Channel,
    clock::WallTime,
    config::OptionOverrides,
    protocol::{Disconnect, ErrorCode, ExceededLimit, WireError},
    publication::{MAX_INFO_BYTES, MAX_USER_BYTES, is_valid_user},
};

/// Maximum length of a client id. The hub's own ids are shorter.
const MAX_CLIENT_BYTES: usize = 64;
/// Maximum number of connections that a control may exclude: each session searches the list.
const MAX_WHITELIST: usize = 1000;
/// Maximum length of an epoch. The hub's own epochs are shorter.
const MAX_EPOCH_BYTES: usize = 64;

/// What the server API sends to the sessions of a user, on all instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// The user whose sessions apply it.
    pub user: String,
    /// Only the connection with this client id applies it.
    pub client: Option<String>,
    /// The connections with these client ids do not apply it.
    pub whitelist: Vec<String>,
    /// What the sessions do.
    #[serde(rename = "order")]
    pub action: ControlAction,
}

/// What a control makes a session do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum ControlAction {
    /// Subscribe to a channel, with a subscribe push. An existing subscription does not change.
    Subscribe {
        /// A valid channel name. The instance that applies the control checks the namespace, too.
        channel: String,
        /// Raw JSON that other clients see of this subscription.
        info: Option<String>,
        /// Raw JSON that the client receives with the subscribe push.
        data: Option<String>,
        /// The client already has the publications up to this position, and receives the later ones.
        #[serde(rename = "since")]
        recover_since: Option<RecoverSince>,
        /// `None`: the subscription lasts as long as the session.
        expires_at: Option<WallTime>,
        /// Channel options that differ for this subscription. The field is left out if no option differs: older
        /// instances then accept the control.
        #[serde(rename = "override", default, skip_serializing_if = "OptionOverrides::is_empty")]
        overrides: OptionOverrides,
    },
    /// Unsubscribe from a channel, with an unsubscribe push (2000).
    Unsubscribe {
        /// A valid channel name.
        channel: String,
    },
    /// Close the connection.
    Disconnect {
        /// The close code, 3000 to 4999.
        code: u16,
        /// The close reason, at most 123 bytes.
        reason: String,
    },
    /// Replace the expiry of the session's token.
    Refresh {
        /// `None`: the session does not expire.
        expires_at: Option<WallTime>,
        /// Raw JSON that replaces what other clients see of the user.
        info: Option<String>,
    },
}

/// A position in a channel's history, as the server API sends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoverSince {
    /// The offset.
    pub offset: u64,
    /// The epoch, at most 64 bytes. Empty: any epoch. Text that no broker has issued is the epoch of no channel.
    pub epoch: String,
}

/// Why a [`Control`] is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The user is empty, too long, or contains control characters.
    #[error("the user must have 1 to {MAX_USER_BYTES} bytes and no control characters")]
    InvalidUser,
    /// A client id that no connection can have.
    #[error("a client id must have 1 to 64 bytes")]
    InvalidClientId,
    /// The channel's name is invalid.
    #[error("invalid channel name")]
    InvalidChannel,
    /// A code or reason that no close frame of the hub may carry.
    #[error("a close code must be 3000 to 4999, a close reason at most 123 bytes and not JSON")]
    InvalidClose,
    /// `info` or `data` is not JSON on one line.
    #[error("info and data must be JSON on one line")]
    InvalidJson,
    /// More than a control may carry: excluded connections, bytes of `info`, `data` or an epoch.
    #[error("limit exceeded: {0}")]
    TooLong(#[from] ExceededLimit),
}

/// The error that a caller of the server API gets.
impl From<ControlError> for WireError {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::TooLong(limit) => limit.into(),
            ControlError::InvalidUser
            | ControlError::InvalidClientId
            | ControlError::InvalidChannel
            | ControlError::InvalidClose
            | ControlError::InvalidJson => ErrorCode::BadRequest.with_detail(error),
        }
    }
}

impl Control {
    /// Returns whether all sessions of the user apply it.
    pub fn is_for_all_sessions(&self) -> bool {
        self.client.is_none() && self.whitelist.is_empty()
    }

    /// Checks that sessions can apply the control. The server API calls it before it sends a control, and an instance
    /// calls it again for a control from the bus, where others can write.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn validate(&self) -> Result<(), ControlError> {
        if self.user.is_empty() || !is_valid_user(&self.user) {
            return Err(ControlError::InvalidUser);
        }
        ExceededLimit::check("ids in whitelist", MAX_WHITELIST, self.whitelist.len())?;
        if self.client.iter().chain(&self.whitelist).any(|client| client.is_empty() || client.len() > MAX_CLIENT_BYTES)
        {
            return Err(ControlError::InvalidClientId);
        }
        match &self.action {
            ControlAction::Subscribe { channel, info, data, recover_since, .. } => {
                validate_channel(channel)?;
                validate_json_line("bytes of info", info.as_deref())?;
                validate_json_line("bytes of data", data.as_deref())?;
                let epoch_bytes = recover_since.as_ref().map_or(0, |since| since.epoch.len());
                Ok(ExceededLimit::check("bytes of epoch", MAX_EPOCH_BYTES, epoch_bytes)?)
            }
            ControlAction::Unsubscribe { channel } => validate_channel(channel),
            ControlAction::Disconnect { code, reason } => {
                if Disconnect::custom(*code, reason).is_some() {
                    Ok(())
                } else {
                    Err(ControlError::InvalidClose)
                }
            }
            ControlAction::Refresh { info, .. } => validate_json_line("bytes of info", info.as_deref()),
        }
    }
}

fn validate_channel(name: &str) -> Result<(), ControlError> {
    Channel::new(name).map(|_| ()).map_err(|_| ControlError::InvalidChannel)
}

/// Checks that `raw` is JSON that can be copied into a reply: without line breaks, which separate replies.
fn validate_json_line(limit: &'static str, raw: Option<&str>) -> Result<(), ControlError> {
    let Some(raw) = raw else { return Ok(()) };
    ExceededLimit::check(limit, MAX_INFO_BYTES, raw.len())?;
    if raw.contains(['\r', '\n']) || !is_json(raw) { Err(ControlError::InvalidJson) } else { Ok(()) }
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
            expires_at: Some(WallTime::from_unix_millis(i64::MIN)),
            overrides: OptionOverrides::default(),
        })
    }

    #[test]
    fn overrides_are_on_the_bus_only_where_there_are_some() {
        let plain = subscribe("news", None, None, "");
        let json = serde_json::to_string(&plain).expect("JSON");
        assert!(!json.contains("override"), "an older instance refuses unknown fields: {json}");
        assert_eq!(serde_json::from_str::<Control>(&json).expect("a control"), plain);
    }

    #[test]
    fn valid_controls_are_accepted() {
        let excluded = vec!["x".repeat(64); 1000];
        for good in [
            close(3000, ""),
            close(4999, &"x".repeat(123)),
            unsubscribe("news"),
            subscribe("news", None, Some("[1]"), ""),
            subscribe("chat:1", Some("{}"), Some(&format!("\"{}\"", "x".repeat(4094))), &"x".repeat(64)),
            refresh("null"),
            refresh(&format!("\"{}\"", "x".repeat(4094))),
            control(ControlAction::Refresh { expires_at: Some(WallTime::from_unix_millis(i64::MIN)), info: None }),
            Control { user: "é".repeat(127), client: Some("c".to_owned()), whitelist: excluded, ..close(3503, "go") },
        ] {
            assert_eq!(good.validate(), Ok(()), "{good:?}");
        }
    }

    #[test]
    fn invalid_controls_are_rejected() {
        let named = |user: &str| Control { user: user.to_owned(), ..close(3503, "go") };
        let only = |client: &str| Control { client: Some(client.to_owned()), ..close(3503, "go") };
        let but = |whitelist| Control { whitelist, ..close(3503, "go") };
        let over = |name, value| ControlError::TooLong(ExceededLimit { name, value });
        for (bad, why) in [
            (named(""), ControlError::InvalidUser),
            (named(&"x".repeat(256)), ControlError::InvalidUser),
            (named("a\0"), ControlError::InvalidUser),
            (only(""), ControlError::InvalidClientId),
            (only(&"x".repeat(65)), ControlError::InvalidClientId),
            (but(vec![String::new()]), ControlError::InvalidClientId),
            (but(vec!["x".to_owned(); 1001]), over("ids in whitelist", 1000)),
            (unsubscribe("a*"), ControlError::InvalidChannel),
            (unsubscribe(""), ControlError::InvalidChannel),
            (subscribe("a*", None, None, ""), ControlError::InvalidChannel),
            (subscribe("a", Some("{"), None, ""), ControlError::InvalidJson),
            (subscribe("a", None, Some("[1,\n2]"), ""), ControlError::InvalidJson),
            (subscribe("a", None, Some(&format!("\"{}\"", "x".repeat(4095))), ""), over("bytes of data", 4096)),
            (subscribe("a", None, None, &"x".repeat(65)), over("bytes of epoch", 64)),
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
            (refresh(&format!("\"{}\"", "x".repeat(4095))), over("bytes of info", 4096)),
        ] {
            assert_eq!(bad.validate(), Err(why), "{bad:?}");
        }
    }
}
