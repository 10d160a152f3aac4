//! The wire, and the only place that knows it: the Centrifuge client protocol v2 in JSON, its two tables of codes, and the
//! frames it travels in. Pure: bytes in, values out, and back. Session, hub, api and transport use it; it knows no room.

mod command;
mod disconnect;
mod error;
pub mod frame;
mod json;
mod push;
mod reply;

pub use command::{Command, Malformed, Method, command};
pub use disconnect::{Disconnect, Unsubscribed};
pub use error::{ErrorBody, ErrorCode};
pub use json::one_line;
pub use push::{connect_push, farewell, publication_push, refresh_push, subscribe_push, unsubscribe_push};
pub use reply::{
    ConnectResult, Expiry, RefreshResult, SubscribeResult, connect_reply, empty_reply, error_reply, refresh_reply,
    sub_refresh_reply, subscribe_reply,
};

/// What is told to clients as the server's version.
pub const VERSION: &str = concat!("wardcast ", env!("CARGO_PKG_VERSION"));
