//! Orders of the server API to the sessions of a user, wherever they are.

use serde::{Deserialize, Serialize, de::IgnoredAny};

use crate::channel::Channel;

/// Longest user, as in a token.
const USER_BYTES: usize = 255;
/// Longest id of a connection that is taken; ours are shorter.
const CLIENT_BYTES: usize = 64;
/// Connections that an order may spare: each session looks through them.
const WHITELIST: usize = 1000;
/// Longest reason of a close frame (RFC 6455 §5.5: 125 bytes with the code).
const REASON_BYTES: usize = 123;
/// Longest JSON that replaces what others see of a user: every session keeps one, every publication carries it.
const INFO_BYTES: usize = 4096;

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
    pub order: Order,
}

/// What sessions have to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Order {
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

/// Why a [`Control`] is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadControl {
    /// Empty, over 255 bytes, or with control characters.
    #[error("a user has 1 to 255 bytes without controls")]
    User,
    /// An id that no connection can have.
    #[error("a connection's id has 1 to 64 bytes")]
    Client,
    /// Not the name of a channel.
    #[error("not the name of a channel")]
    Channel,
    /// A code or reason that no close frame of ours may carry.
    #[error("close codes are 3000 to 4999, reasons have at most 123 bytes and are not JSON")]
    Close,
    /// Not JSON on one line.
    #[error("info must be JSON on one line")]
    Info,
    /// More than an order may carry: over 1,000 spared connections, or over 4 KiB of info.
    #[error("over 1,000 spared connections or 4096 bytes of info")]
    TooLong,
}

impl Control {
    /// Checks that sessions can do it. Whoever makes one asks, and whoever takes one from outside asks again.
    ///
    /// # Errors
    /// [`BadControl`].
    pub fn check(&self) -> Result<(), BadControl> {
        if self.user.is_empty() || self.user.len() > USER_BYTES || self.user.contains(char::is_control) {
            return Err(BadControl::User);
        }
        if self.whitelist.len() > WHITELIST {
            return Err(BadControl::TooLong);
        }
        if self.client.iter().chain(&self.whitelist).any(|client| client.is_empty() || client.len() > CLIENT_BYTES) {
            return Err(BadControl::Client);
        }
        match &self.order {
            Order::Unsubscribe { channel } => Channel::new(channel).map(|_| ()).map_err(|_| BadControl::Channel),
            Order::Disconnect { code, reason } => {
                let is_good = (3000..=4999).contains(code) && reason.len() <= REASON_BYTES && !is_json(reason);
                if is_good { Ok(()) } else { Err(BadControl::Close) }
            }
            Order::Refresh { info: None, .. } => Ok(()),
            Order::Refresh { info: Some(info), .. } if info.len() > INFO_BYTES => Err(BadControl::TooLong),
            Order::Refresh { info: Some(info), .. } => {
                if is_json(info) && !info.contains(['\r', '\n']) {
                    Ok(())
                } else {
                    Err(BadControl::Info)
                }
            }
        }
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(order: Order) -> Control {
        Control { user: "ann".to_owned(), client: None, whitelist: Vec::new(), order }
    }

    fn close(code: u16, reason: &str) -> Control {
        control(Order::Disconnect { code, reason: reason.to_owned() })
    }

    fn refresh(info: &str) -> Control {
        control(Order::Refresh { expires_at: None, info: Some(info.to_owned()) })
    }

    fn unsubscribe(channel: &str) -> Control {
        control(Order::Unsubscribe { channel: channel.to_owned() })
    }

    #[test]
    fn what_sessions_can_do_is_taken() {
        let spared = vec!["x".repeat(64); 1000];
        for good in [
            close(3000, ""),
            close(4999, &"x".repeat(123)),
            unsubscribe("news"),
            refresh("null"),
            refresh(&format!("\"{}\"", "x".repeat(4094))),
            control(Order::Refresh { expires_at: Some(i64::MIN), info: None }),
            Control { user: "é".repeat(127), client: Some("c".to_owned()), whitelist: spared, ..close(3503, "go") },
        ] {
            assert_eq!(good.check(), Ok(()), "{good:?}");
        }
    }

    #[test]
    fn what_no_session_can_do_is_refused() {
        let named = |user: &str| Control { user: user.to_owned(), ..close(3503, "go") };
        let only = |client: &str| Control { client: Some(client.to_owned()), ..close(3503, "go") };
        let but = |whitelist| Control { whitelist, ..close(3503, "go") };
        for (bad, why) in [
            (named(""), BadControl::User),
            (named(&"x".repeat(256)), BadControl::User),
            (named("a\0"), BadControl::User),
            (only(""), BadControl::Client),
            (only(&"x".repeat(65)), BadControl::Client),
            (but(vec![String::new()]), BadControl::Client),
            (but(vec!["x".to_owned(); 1001]), BadControl::TooLong),
            (unsubscribe("a*"), BadControl::Channel),
            (unsubscribe(""), BadControl::Channel),
            (close(2999, ""), BadControl::Close),
            (close(5000, ""), BadControl::Close),
            (close(1000, ""), BadControl::Close),
            (close(3503, &"x".repeat(124)), BadControl::Close),
            (close(3503, "{}"), BadControl::Close),
            (close(3503, " 7 "), BadControl::Close),
            (refresh("{"), BadControl::Info),
            (refresh(""), BadControl::Info),
            (refresh("[1,\n2]"), BadControl::Info),
            (refresh("1 2"), BadControl::Info),
            (refresh(&format!("\"{}\"", "x".repeat(4095))), BadControl::TooLong),
        ] {
            assert_eq!(bad.check(), Err(why), "{bad:?}");
        }
    }
}
