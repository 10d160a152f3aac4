//! Commands of clients, the same whichever format they come in. What they hold is borrowed from their frame.

mod fields;
mod filter;
mod json;
mod protobuf;

use std::{borrow::Cow, collections::BTreeMap};

use serde_json::value::RawValue;

pub(super) use fields::read_varint;
pub use filter::RawFilter;
pub(super) use json::parse as parse_json;
pub(super) use protobuf::parse as parse_protobuf;

/// One command. It has no `Debug`: nothing may print a token.
pub struct Command<'a> {
    /// Echoed in the reply; 0 where none is expected.
    pub id: u32,
    /// A token that any command may carry: it replaces the session's claims.
    pub token: Option<Cow<'a, str>>,
    /// What is asked.
    pub method: CommandMethod<'a>,
}

/// What a client may ask. Names of channels are unchecked.
pub enum CommandMethod<'a> {
    /// The answer to our ping.
    Pong,
    /// Say who it is, or begin to speak as an SDK does.
    Connect(ConnectCommand<'a>),
    /// Begin to receive a channel.
    Subscribe(SubscribeCommand<'a>),
    /// Stop receiving a channel.
    Unsubscribe {
        /// Which.
        channel: Cow<'a, str>,
    },
    /// Send to everybody who is subscribed.
    Publish {
        /// Where.
        channel: Cow<'a, str>,
        /// `None` when it is no JSON, which only Protobuf has a place for.
        data: Option<&'a RawValue>,
    },
    /// Who is in a channel.
    Presence {
        /// Which.
        channel: Cow<'a, str>,
    },
    /// How many are in a channel.
    PresenceStats {
        /// Which.
        channel: Cow<'a, str>,
    },
    /// What a channel has kept.
    History(HistoryCommand<'a>),
    /// Ask a backend.
    Rpc {
        /// What of it.
        method: Cow<'a, str>,
        /// What is said to it.
        data: Option<&'a RawValue>,
    },
    /// Tell a backend. There is no reply to put an error into.
    Send {
        /// What.
        data: Option<&'a RawValue>,
    },
    /// Go on with a newer token.
    Refresh {
        /// The token.
        token: Option<Cow<'a, str>>,
    },
    /// Go on receiving a channel with a newer subscription token.
    SubRefresh {
        /// Which.
        channel: Cow<'a, str>,
        /// The token.
        token: Option<Cow<'a, str>>,
    },
    /// Answer at once.
    Ping,
}

/// `connect`
#[derive(Default)]
pub struct ConnectCommand<'a> {
    /// The token, unless a door let the client in already.
    pub token: Option<Cow<'a, str>>,
    /// What a backend might want to know; what is no JSON counts as nothing.
    pub data: Option<&'a RawValue>,
    /// Where the client stands in channels that its token brings.
    pub subs: BTreeMap<Cow<'a, str>, ClientPosition<'a>>,
    /// The SDK's name, as it says.
    pub name: Cow<'a, str>,
    /// The SDK's version, as it says.
    pub version: Cow<'a, str>,
    /// What it would have said in headers, if its platform had let it.
    pub headers: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}

/// `subscribe`
#[derive(Default)]
pub struct SubscribeCommand<'a> {
    /// Which channel.
    pub channel: Cow<'a, str>,
    /// A subscription token.
    pub token: Option<Cow<'a, str>>,
    /// What it has missed.
    pub recovery: ClientPosition<'a>,
    /// What a backend might want to know; what is no JSON counts as nothing.
    pub data: Option<&'a RawValue>,
    /// Wants to be told of gaps.
    pub is_positioned: bool,
    /// Wants to recover later.
    pub is_recoverable: bool,
    /// Wants to be told who comes and leaves.
    pub wants_join_leave: bool,
    /// How it reads differences, like `fossil`; empty: it does not.
    pub delta: Cow<'a, str>,
    /// Wants only publications with such tags.
    pub filter: Option<RawFilter<'a>>,
    /// Bits: see [`SubscribeCommand::requires_recovery`].
    pub flag: i64,
}

impl SubscribeCommand<'_> {
    /// Whether a failed recovery is to be error 112 (`flag & 2`).
    pub fn requires_recovery(&self) -> bool {
        self.flag & 2 != 0
    }
}

/// What a client has of a channel already.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ClientPosition<'a> {
    /// It wants what came after it.
    pub wants_recovery: bool,
    /// Names the history; empty: any.
    pub epoch: Cow<'a, str>,
    /// Of the last publication that it has.
    pub offset: u64,
}

/// `history`
#[derive(Debug, Default, PartialEq, Eq)]
pub struct HistoryCommand<'a> {
    /// Which channel.
    pub channel: Cow<'a, str>,
    /// At most so many publications; 0 asks for the position alone, less makes no sense.
    pub limit: i32,
    /// From behind this place: offset and epoch.
    pub since: Option<(u64, Cow<'a, str>)>,
    /// The newest first.
    pub is_reverse: bool,
}

/// What holds no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a command")]
pub struct MalformedCommand;

/// SDKs write "" for what they do not have.
fn non_empty(token: Option<Cow<'_, str>>) -> Option<Cow<'_, str>> {
    token.filter(|token| !token.is_empty())
}

/// The command that has exactly one of these methods.
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
