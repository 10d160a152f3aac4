//! The wire format: the Centrifuge client protocol v2 in JSON and in Protobuf, its codes, and the WebSocket frames that
//! carry it. No other module knows it. It converts between bytes and values, has no state, and imports no module but the
//! shared ones.

mod codes;
mod command;
pub mod disconnect;
mod encode;
mod error;
mod format;
pub mod frame;
mod frame_rule;
mod push;
mod reply;

/// The types that are generated from `wardcast.proto`. Replies and pushes are encoded with them, and tests decode with them.
#[expect(missing_docs, reason = "generated; the schema says it")]
#[allow(unreachable_pub, clippy::allow_attributes, reason = "generated")]
pub mod schema {
    include!(concat!(env!("OUT_DIR"), "/wardcast.rs"));
}

pub use codes::{CodeInfo, may_reconnect};
pub use command::{
    ClientPosition, Command, CommandMethod, ConnectCommand, Diagnosis, HistoryCommand, MalformedCommand, MethodName,
    PublishData, RawFilter, SubscribeCommand,
};
pub use disconnect::{Disconnect, UnsubscribeCode};
pub use encode::json::{encode_history_result, encode_presence_result, part_of, to_single_line};
pub use error::{BinaryChannel, DisabledOption, ErrorCode, ExceededLimit, WireError};
pub use format::Format;
pub use frame_rule::FrameRule;
pub use push::{PublicationPush, Push, PushData};
pub use reply::{ConnectResult, Expiry, HistoryResult, PresenceStats, RefreshResult, Reply, SubscribeResult};

/// The version of the server, as clients see it.
pub const VERSION: &str = concat!("wardcast ", env!("CARGO_PKG_VERSION"));
