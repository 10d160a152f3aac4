//! Details of a session that its hub keeps only for the server API: where its client is, and which name and version the client
//! has sent.

use std::net::IpAddr;

use actix::prelude::*;

use super::{Hub, SessionKey};
use crate::{clock::WallTime, config::Door};

/// Maximum characters that are kept of a name or version that a client says.
const MAX_SOFTWARE_CHARS: usize = 64;

/// Details of a session that only the server API reads.
#[derive(Clone, Debug)]
pub struct SessionDetails {
    /// The address of the client.
    pub address: IpAddr,
    /// When the connection was accepted.
    pub connected_at: WallTime,
    /// The way in which the client sent its token; `None` without one.
    pub credential: Option<Door>,
    /// What the client says about itself. Boxed: few clients say anything.
    pub software: Option<Box<ClientSoftware>>,
}

/// Name and version of a client's software, as it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSoftware {
    /// The name.
    pub name: Box<str>,
    /// The version.
    pub version: Box<str>,
}

impl ClientSoftware {
    /// Returns what a client says about itself, shortened; `None` if that is nothing.
    pub fn new(name: &str, version: &str) -> Option<Box<Self>> {
        let shorten = |text: &str| text.chars().take(MAX_SOFTWARE_CHARS).collect::<String>().into_boxed_str();
        let is_named = !name.is_empty() || !version.is_empty();
        is_named.then(|| Box::new(Self { name: shorten(name), version: shorten(version) }))
    }
}

/// Notes how a client has authenticated after its handshake, and what it says about itself.
#[derive(Message)]
#[rtype(result = "()")]
pub struct NoteAuthentication {
    /// The session.
    pub key: SessionKey,
    /// The way in which it sent its token; `None`: as before.
    pub credential: Option<Door>,
    /// What it says about itself.
    pub software: Option<Box<ClientSoftware>>,
}

impl Handler<NoteAuthentication> for Hub {
    type Result = ();

    fn handle(&mut self, note: NoteAuthentication, _: &mut Self::Context) {
        if let Some(session) = self.registry.session_mut(note.key) {
            session.details.credential = note.credential.or(session.details.credential);
            session.details.software = note.software;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_of_a_client_is_shortened_by_characters() {
        let software = ClientSoftware::new(&"é".repeat(1000), "1").unwrap();
        assert_eq!((software.name.chars().count(), &*software.version), (MAX_SOFTWARE_CHARS, "1"));
        assert_eq!(ClientSoftware::new("", ""), None);
    }
}
