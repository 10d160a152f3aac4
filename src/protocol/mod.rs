//! The wire, and the only place that knows it: the Centrifuge client protocol v2 in JSON and in Protobuf, its two tables of
//! codes, and the frames it travels in. Pure: bytes in, values out, and back. Session, hub, api and transport use it; it
//! knows no room.

mod command;
mod disconnect;
mod error;
mod format;
pub mod frame;
mod push;
mod reply;
mod write;

/// What `wardcast.proto` comes to: for whoever reads what is written here.
#[expect(missing_docs, reason = "generated; the schema says it")]
#[allow(unreachable_pub, clippy::allow_attributes, reason = "generated")]
pub mod schema {
    include!(concat!(env!("OUT_DIR"), "/wardcast.rs"));
}

pub use command::{
    Command, ConnectRequest, HistoryRequest, Malformed, Method, Recovery, SubscribeRequest, UnreadFilter,
};
pub use disconnect::{Disconnect, Unsubscribed};
pub use error::{ErrorBody, ErrorCode};
pub use format::Format;
pub use push::{Content, PublicationPush, Push};
pub use reply::{ConnectResult, Expiry, HistoryResult, PresenceStats, RefreshResult, Reply, SubscribeResult};
pub use write::json::{history_result, one_line, presence_result};

/// What is told to clients as the server's version.
pub const VERSION: &str = concat!("wardcast ", env!("CARGO_PKG_VERSION"));
