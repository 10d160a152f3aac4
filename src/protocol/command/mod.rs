//! The commands of clients. They are the same values in both formats, and borrow their content from the frame.

mod diagnosis;
mod fields;
mod filter;
mod json;
mod method_name;
mod protobuf;

use std::{borrow::Cow, collections::BTreeMap};

use serde_json::value::RawValue;

pub use diagnosis::Diagnosis;
pub(super) use diagnosis::{diagnose_json, diagnose_protobuf};
pub(super) use fields::read_varint;
pub use filter::RawFilter;
pub(super) use json::parse as parse_json;
pub use method_name::MethodName;
pub(super) use protobuf::parse as parse_protobuf;

/// A command. It does not implement `Debug`, so that no token can be printed.
pub struct Command<'a> {
    /// Repeated in the reply. 0 if there is no reply.
    pub id: u32,
    /// A token, which any command may carry. It replaces the claims of the session.
    pub token: Option<Cow<'a, str>>,
    /// The method with its parameters.
    pub method: CommandMethod<'a>,
}

/// A method of a command, with its parameters. Channel names are not validated yet.
pub enum CommandMethod<'a> {
    /// The answer to a ping of the hub.
    Pong,
    /// Authenticate, or become an SDK session.
    Connect(ConnectCommand<'a>),
    /// Subscribe to a channel.
    Subscribe(SubscribeCommand<'a>),
    /// Unsubscribe from a channel.
    Unsubscribe {
        /// The channel.
        channel: Cow<'a, str>,
    },
    /// Publish to the subscribers of a channel.
    Publish {
        /// The channel.
        channel: Cow<'a, str>,
        /// The data. `None` if it is missing.
        data: Option<PublishData<'a>>,
    },
    /// Subscribe, publish or refresh with a `type` other than 0, which is not offered. Nothing else of it is judged.
    OtherType,
    /// List the clients in a channel.
    Presence {
        /// The channel.
        channel: Cow<'a, str>,
    },
    /// Count the clients in a channel.
    PresenceStats {
        /// The channel.
        channel: Cow<'a, str>,
    },
    /// Read the history of a channel.
    History(HistoryCommand<'a>),
    /// Call a method of a backend.
    Rpc {
        /// Name of the backend's method.
        method: Cow<'a, str>,
        /// Data for it.
        data: Option<&'a RawValue>,
    },
    /// Send data to a backend. Has no reply, and so no error.
    Send {
        /// The data.
        data: Option<&'a RawValue>,
    },
    /// Replace the token of the session.
    Refresh {
        /// The new token.
        token: Option<Cow<'a, str>>,
    },
    /// Replace the subscription token of a subscription.
    SubRefresh {
        /// The channel.
        channel: Cow<'a, str>,
        /// The new token.
        token: Option<Cow<'a, str>>,
    },
    /// Get a reply at once.
    Ping,
}

/// The data of `publish`. What it must be depends on the channel.
#[derive(Clone, Copy, Debug)]
pub enum PublishData<'a> {
    /// JSON, in a JSON command.
    Json(&'a RawValue),
    /// Any bytes, in a Protobuf command.
    Bytes(&'a [u8]),
}

impl<'a> PublishData<'a> {
    /// Returns the data as JSON, without the white space around it. `None` if it is not JSON.
    pub fn as_json(self) -> Option<&'a RawValue> {
        match self {
            Self::Json(json) => Some(json),
            Self::Bytes(bytes) => protobuf::parse_raw_json(bytes),
        }
    }

    /// Returns the data as it was sent.
    pub fn as_bytes(self) -> &'a [u8] {
        match self {
            Self::Json(json) => json.get().as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl CommandMethod<'_> {
    /// Returns the method with the `type` that the command names. Only the default type, 0, is offered.
    fn with_type(self, kind: i32) -> Self {
        if kind == 0 { self } else { Self::OtherType }
    }
}

/// The parameters of `connect`.
#[derive(Default)]
pub struct ConnectCommand<'a> {
    /// The token, unless the session was authenticated in the handshake.
    pub token: Option<Cow<'a, str>>,
    /// Data for a backend. `None` if it is not JSON.
    pub data: Option<&'a RawValue>,
    /// The client's positions in channels that its token brings.
    pub subs: BTreeMap<Cow<'a, str>, ClientPosition<'a>>,
    /// Name of the SDK, as the client says.
    pub name: Cow<'a, str>,
    /// Version of the SDK, as the client says.
    pub version: Cow<'a, str>,
}

/// The parameters of `subscribe`.
#[derive(Default)]
pub struct SubscribeCommand<'a> {
    /// The channel.
    pub channel: Cow<'a, str>,
    /// A subscription token.
    pub token: Option<Cow<'a, str>>,
    /// The client's position, if it wants recovery.
    pub recovery: ClientPosition<'a>,
    /// Data for a backend. `None` if it is not JSON.
    pub data: Option<&'a RawValue>,
    /// Asks to learn of gaps.
    pub is_positioned: bool,
    /// Asks for the ability to recover after a reconnect.
    pub is_recoverable: bool,
    /// Asks for joins and leaves.
    pub wants_join_leave: bool,
    /// Delta format that the client reads, like `fossil`. Empty: none.
    pub delta: Cow<'a, str>,
    /// Asks for only those publications whose tags match.
    pub filter: Option<RawFilter<'a>>,
    /// Bit set; see [`SubscribeCommand::requires_recovery`].
    pub flag: i64,
}

impl SubscribeCommand<'_> {
    /// Returns whether a failed recovery must be error 112 (`flag & 2`).
    pub fn requires_recovery(&self) -> bool {
        self.flag & 2 != 0
    }
}

/// A client's position in a channel.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ClientPosition<'a> {
    /// Whether the client asks for the publications after the position.
    pub wants_recovery: bool,
    /// Epoch of the history. Empty: any.
    pub epoch: Cow<'a, str>,
    /// Offset of the last publication that the client has.
    pub offset: u64,
}

/// The parameters of `history`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct HistoryCommand<'a> {
    /// The channel.
    pub channel: Cow<'a, str>,
    /// Maximum publications. 0 asks for the position alone, a negative number for as many as one reply may have.
    pub limit: i32,
    /// Offset and epoch of the position after which to read.
    pub since: Option<(u64, Cow<'a, str>)>,
    /// Whether to read from new to old.
    pub is_reverse: bool,
}

/// The error for a message that is not a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a command")]
pub struct MalformedCommand;

/// Returns the token unless it is empty. SDKs write `""` if they have none.
fn non_empty(token: Option<Cow<'_, str>>) -> Option<Cow<'_, str>> {
    token.filter(|token| !token.is_empty())
}

/// Returns the command with the only one of these methods. None or several are malformed, and so is an id that should be
/// there and is not. (Only `send` needs none.)
fn single_method<'a>(
    id: u32,
    token: Option<Cow<'a, str>>,
    methods: impl IntoIterator<Item = CommandMethod<'a>>,
) -> Result<Command<'a>, MalformedCommand> {
    let mut methods = methods.into_iter();
    match (methods.next(), methods.next(), id) {
        (Some(method @ CommandMethod::Send { .. }), None, _) | (Some(method), None, 1..) => {
            Ok(Command { id, token: non_empty(token), method })
        }
        _ => Err(MalformedCommand),
    }
}
