//! The names of the methods of commands, as metrics count them.

use super::CommandMethod;
use crate::text_enum::text_enum;

text_enum! {
    /// The name of a method. It is an index of counters, so that a command costs no lookup of a text. First come the methods of commands, in
    /// the order of their fields in Protobuf.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum MethodName {
        /// Returns the name: that of the member of a JSON command, or `pong` or `unknown`.
        fn as_str;
        /// Also a token as text.
        Connect = "connect";
        Subscribe = "subscribe";
        Unsubscribe = "unsubscribe";
        Publish = "publish";
        Presence = "presence";
        PresenceStats = "presence_stats";
        History = "history";
        Ping = "ping";
        Send = "send";
        Rpc = "rpc";
        Refresh = "refresh";
        SubRefresh = "sub_refresh";
        /// The answer to a ping of the hub.
        Pong = "pong";
        /// A message that is not a command, and a command with a `type` that is not offered.
        Unknown = "unknown";
    }
}

impl MethodName {
    /// Returns the methods of commands. In Protobuf they are fields, in this order, from number 4 on.
    pub fn of_commands() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().take_while(|name| *name != Self::Pong)
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
