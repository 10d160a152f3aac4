//! The names of the methods of commands, as metrics count them.

use super::CommandMethod;

/// The name of a method. It is an index of counters, so that a command costs no lookup of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodName {
    /// `connect`, and a token as text.
    Connect,
    /// `subscribe`.
    Subscribe,
    /// `unsubscribe`.
    Unsubscribe,
    /// `publish`.
    Publish,
    /// `presence`.
    Presence,
    /// `presence_stats`.
    PresenceStats,
    /// `history`.
    History,
    /// `rpc`.
    Rpc,
    /// `send`.
    Send,
    /// `refresh`.
    Refresh,
    /// `sub_refresh`.
    SubRefresh,
    /// `ping`.
    Ping,
    /// The answer to a ping of the hub.
    Pong,
    /// A message that is not a command, and a command with a `type` that is not offered.
    Unknown,
}

impl MethodName {
    /// All names, in the order of their indexes.
    pub const ALL: [Self; 14] = [
        Self::Connect,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::Publish,
        Self::Presence,
        Self::PresenceStats,
        Self::History,
        Self::Rpc,
        Self::Send,
        Self::Refresh,
        Self::SubRefresh,
        Self::Ping,
        Self::Pong,
        Self::Unknown,
    ];

    /// Returns the name: that of the member of a JSON command, or `pong` or `unknown`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::Publish => "publish",
            Self::Presence => "presence",
            Self::PresenceStats => "presence_stats",
            Self::History => "history",
            Self::Rpc => "rpc",
            Self::Send => "send",
            Self::Refresh => "refresh",
            Self::SubRefresh => "sub_refresh",
            Self::Ping => "ping",
            Self::Pong => "pong",
            Self::Unknown => "unknown",
        }
    }
}

impl CommandMethod<'_> {
    /// Returns the name of the method.
    pub fn name(&self) -> MethodName {
        match self {
            Self::Connect(_) => MethodName::Connect,
            Self::Subscribe(_) => MethodName::Subscribe,
            Self::Unsubscribe { .. } => MethodName::Unsubscribe,
            Self::Publish { .. } => MethodName::Publish,
            Self::Presence { .. } => MethodName::Presence,
            Self::PresenceStats { .. } => MethodName::PresenceStats,
            Self::History(_) => MethodName::History,
            Self::Rpc { .. } => MethodName::Rpc,
            Self::Send { .. } => MethodName::Send,
            Self::Refresh { .. } => MethodName::Refresh,
            Self::SubRefresh { .. } => MethodName::SubRefresh,
            Self::Ping => MethodName::Ping,
            Self::Pong => MethodName::Pong,
            Self::OtherType => MethodName::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Format;

    #[test]
    fn each_name_is_the_member_of_a_command_and_has_its_own_index() {
        for (index, name) in MethodName::ALL.into_iter().enumerate() {
            assert_eq!(name as usize, index, "{name:?}");
            let text = match name {
                MethodName::Pong => "{}".to_owned(),
                MethodName::Unknown => r#"{"id":1,"subscribe":{"channel":"news","type":1}}"#.to_owned(),
                _ => format!(r#"{{"id":1,"{}":{{}}}}"#, name.as_str()),
            };
            let command = Format::Json.parse_command(text.as_bytes()).unwrap_or_else(|_| panic!("{text}"));
            assert_eq!(command.method.name(), name, "{text}");
        }
    }
}
