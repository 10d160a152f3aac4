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
    pub order: Order,
}

/// What sessions have to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Order {
    /// Receive a channel (subscribe push); where it is received already, nothing changes.
    Subscribe {
        /// Its name, checked; the channel's namespace is judged by whoever carries it out, too.
        channel: String,
        /// Raw JSON that others see of this subscription.
        info: Option<String>,
        /// Raw JSON that the client is told with the push.
        data: Option<String>,
        /// The client has what was published up to there, and gets what came later.
        since: Option<Place>,
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
pub struct Place {
    /// Its offset.
    pub offset: u64,
    /// Its epoch, at most 64 bytes; what was never said by a broker is no epoch of a channel here. Empty: any.
    pub epoch: String,
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
    #[error("info and data must be JSON on one line")]
    Info,
    /// More than an order may carry: over 1,000 spared connections, over 4 KiB of info or data, over 64 bytes of epoch.
    #[error("over 1,000 spared connections, 4096 bytes of info or data, or 64 bytes of epoch")]
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
            Order::Subscribe { channel, info, data, since, .. } => {
                is_channel(channel)?;
                info.iter().chain(data).try_for_each(|raw| is_line(raw))?;
                let is_short = since.as_ref().is_none_or(|since| since.epoch.len() <= EPOCH_BYTES);
                if is_short { Ok(()) } else { Err(BadControl::TooLong) }
            }
            Order::Unsubscribe { channel } => is_channel(channel),
            Order::Disconnect { code, reason } => {
                let is_good = (3000..=4999).contains(code) && reason.len() <= REASON_BYTES && !is_json(reason);
                if is_good { Ok(()) } else { Err(BadControl::Close) }
            }
            Order::Refresh { info, .. } => info.iter().try_for_each(|raw| is_line(raw)),
        }
    }
}

fn is_channel(name: &str) -> Result<(), BadControl> {
    Channel::new(name).map(|_| ()).map_err(|_| BadControl::Channel)
}

/// Whether it is JSON that may go into a reply as it is.
fn is_line(raw: &str) -> Result<(), BadControl> {
    match raw {
        _ if raw.len() > INFO_BYTES => Err(BadControl::TooLong),
        _ if raw.contains(['\r', '\n']) || !is_json(raw) => Err(BadControl::Info),
        _ => Ok(()),
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

    fn subscribe(channel: &str, info: Option<&str>, data: Option<&str>, epoch: &str) -> Control {
        let text = |raw: Option<&str>| raw.map(str::to_owned);
        let since = Some(Place { offset: u64::MAX, epoch: epoch.to_owned() });
        let channel = channel.to_owned();
        control(Order::Subscribe { channel, info: text(info), data: text(data), since, expires_at: Some(i64::MIN) })
    }

    #[test]
    fn what_sessions_can_do_is_taken() {
        let spared = vec!["x".repeat(64); 1000];
        for good in [
            close(3000, ""),
            close(4999, &"x".repeat(123)),
            unsubscribe("news"),
            subscribe("news", None, Some("[1]"), ""),
            subscribe("chat:1", Some("{}"), Some(&format!("\"{}\"", "x".repeat(4094))), &"x".repeat(64)),
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
            (subscribe("a*", None, None, ""), BadControl::Channel),
            (subscribe("a", Some("{"), None, ""), BadControl::Info),
            (subscribe("a", None, Some("[1,\n2]"), ""), BadControl::Info),
            (subscribe("a", None, Some(&format!("\"{}\"", "x".repeat(4095))), ""), BadControl::TooLong),
            (subscribe("a", None, None, &"x".repeat(65)), BadControl::TooLong),
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
