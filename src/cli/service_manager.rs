//! Messages to the service manager that has started the hub (sd_notify, `Type=notify` of systemd): when the hub is ready, and when it
//! stops.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// The socket of the service manager, if there is one.
pub(super) struct ServiceManager(Option<OsString>);

impl ServiceManager {
    /// `socket` is `NOTIFY_SOCKET`.
    pub(super) fn new(socket: Option<OsString>) -> Self {
        Self(socket.filter(|socket| !socket.is_empty()))
    }

    /// The hub listens.
    pub(super) fn ready(&self) {
        self.notify("READY=1");
    }

    /// The hub has begun to stop.
    pub(super) fn stopping(&self) {
        self.notify("STOPPING=1");
    }

    fn notify(&self, state: &str) {
        if let Some(socket) = &self.0
            && let Err(error) = send(socket, state)
        {
            log::warn!("cannot notify the service manager state={state:?} error={:?}", error.to_string());
        }
    }
}

/// Sends a message. A name that begins with `@` is in the abstract namespace of Linux.
fn send(socket: &OsStr, message: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address).map(|_| ())
}
