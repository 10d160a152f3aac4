//! The replies by which a node of a Cluster refuses a command that it has not run: the slot is on another master, or on its
//! way there, or the Cluster is down.

use redis::{RedisError, ServerErrorKind};

/// Where a refused command has to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Redirect {
    /// To the master of this slot, as soon as the new topology is known.
    Moved(u16),
    /// Once, behind ASKING, to the server at this address, which is importing the slot.
    Ask(String),
    /// To the same server, a little later.
    Later,
}

impl Redirect {
    /// Reads an error. `None`: it is none of these.
    pub(in super::super) fn of(error: &RedisError) -> Option<Self> {
        // "MOVED 3999 127.0.0.1:6381". The host may be empty: then it is that of the server that says so.
        match error.kind() {
            redis::ErrorKind::Server(ServerErrorKind::Moved) => {
                Some(error.redirect_node().map_or(Self::Later, |(_, slot)| Self::Moved(slot)))
            }
            redis::ErrorKind::Server(ServerErrorKind::Ask) => {
                Some(error.redirect_node().map_or(Self::Later, |(address, _)| Self::Ask(address.to_owned())))
            }
            redis::ErrorKind::Server(ServerErrorKind::TryAgain | ServerErrorKind::ClusterDown) => Some(Self::Later),
            _ => None,
        }
    }
}
