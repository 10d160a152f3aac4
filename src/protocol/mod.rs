//! The wire, and the only place that knows it: the Centrifuge client protocol v2 in JSON and in Protobuf, its two tables of
//! codes, and the frames it travels in. Pure: bytes in, values out, and back. Session, hub, api and transport use it; it
//! knows no room.

mod codes;
mod command;
pub mod disconnect;
mod encode;
mod error;
mod format;
pub mod frame;
mod push;
mod reply;

/// What `wardcast.proto` comes to: for whoever reads what is written here.
#[expect(missing_docs, reason = "generated; the schema says it")]
#[allow(unreachable_pub, clippy::allow_attributes, reason = "generated")]
pub mod schema {
    include!(concat!(env!("OUT_DIR"), "/wardcast.rs"));
}

pub use codes::CodeInfo;
pub use command::{
    ClientPosition, Command, CommandMethod, ConnectCommand, HistoryCommand, MalformedCommand, RawFilter,
    SubscribeCommand,
};
pub use disconnect::{Disconnect, UnsubscribeCode};
pub use encode::json::{encode_history_result, encode_presence_result, to_single_line};
pub use error::{ErrorCode, WireError};
pub use format::Format;
pub use push::{PublicationPush, Push, PushData};
pub use reply::{ConnectResult, Expiry, HistoryResult, PresenceStats, RefreshResult, Reply, SubscribeResult};

/// What is told to clients as the server's version.
pub const VERSION: &str = concat!("wardcast ", env!("CARGO_PKG_VERSION"));
