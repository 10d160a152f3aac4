//! The listening sockets that a service manager passes to the hub (`LISTEN_FDS`, as systemd does for socket units). They outlive the
//! process, so that no connection is refused while the hub is replaced by another one.

use std::{ffi::OsStr, io, path::PathBuf};

use listenfd::ListenFd;

use super::listening_socket::{KernelListener, ListenAddress};
use crate::config::BindAddress;

/// A socket that was passed cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "the service manager has passed socket {number} (\"{name}\"), which is not a listening TCP or Unix stream socket: {error}"
)]
pub struct PassedSocketError {
    /// Its number, from 1.
    number: usize,
    /// Its name in `LISTEN_FDNAMES`.
    name: String,
    error: io::Error,
}

#[derive(Debug)]
struct PassedSocket {
    name: String,
    socket: (ListenAddress, KernelListener),
}

/// The sockets that were passed and that no listener has taken yet.
#[derive(Debug, Default)]
pub struct PassedSockets {
    sockets: Vec<PassedSocket>,
    /// The names that addresses of the configuration have.
    reserved: Vec<String>,
}

impl PassedSockets {
    /// Takes over the sockets that the variables of this process describe. `names` is `LISTEN_FDNAMES`. Removes `LISTEN_PID` and
    /// `LISTEN_FDS`, so it must be called before there are threads, and once.
    ///
    /// # Errors
    /// A socket cannot be used.
    pub fn from_environment(names: Option<&OsStr>) -> Result<Self, PassedSocketError> {
        let mut passed = ListenFd::from_env();
        let names = names.unwrap_or_default().to_string_lossy();
        let mut names = names.split(':');
        let sockets = (0..passed.len()).map(|index| {
            let name = names.next().unwrap_or_default().to_owned();
            let usable = take_socket(&mut passed, index);
            match usable {
                Ok(socket) => Ok(PassedSocket { name, socket }),
                Err(error) => Err(PassedSocketError { number: index + 1, name, error }),
            }
        });
        let sockets = sockets.collect::<Result<_, _>>()?;
        Ok(Self { sockets, reserved: Vec::new() })
    }

    /// Keeps the sockets whose names these addresses have for them.
    pub(super) fn reserve<'a>(&mut self, addresses: impl IntoIterator<Item = &'a BindAddress>) {
        self.reserved.extend(addresses.into_iter().filter_map(|address| match address {
            BindAddress::Systemd(name) => name.clone(),
            _ => None,
        }));
    }

    /// Takes the sockets with this name; without one, those whose names are not reserved.
    pub(super) fn take(&mut self, name: Option<&str>) -> Vec<(ListenAddress, KernelListener)> {
        let is_wanted = |socket: &mut PassedSocket| match name {
            Some(name) => socket.name == name,
            None => !self.reserved.contains(&socket.name),
        };
        self.sockets.extract_if(.., is_wanted).map(|passed| passed.socket).collect()
    }

    /// Returns the addresses of the sockets that no listener has taken.
    pub(super) fn addresses(&self) -> impl Iterator<Item = &ListenAddress> {
        self.sockets.iter().map(|passed| &passed.socket.0)
    }
}

fn take_socket(passed: &mut ListenFd, index: usize) -> io::Result<(ListenAddress, KernelListener)> {
    let unusable = || io::Error::other("it was taken before");
    let (address, listener) = match passed.take_unix_listener(index) {
        Ok(listener) => {
            let listener = listener.ok_or_else(unusable)?;
            let path = listener.local_addr()?.as_pathname().map_or_else(|| PathBuf::from("(no path)"), PathBuf::from);
            listener.set_nonblocking(true)?;
            (ListenAddress::Unix(path), KernelListener::Unix(listener))
        }
        Err(_) => {
            let listener = passed.take_tcp_listener(index)?.ok_or_else(unusable)?;
            listener.set_nonblocking(true)?;
            (ListenAddress::Tcp(listener.local_addr()?), KernelListener::Tcp(listener))
        }
    };
    if listener.as_socket().is_listener()? {
        Ok((address, listener))
    } else {
        Err(io::Error::other("it does not listen"))
    }
}
