//! Session tickets (RFC 8446 §4.6.1, RFC 5077): a client that has one resumes its TLS session instead of a full handshake.
//! The ticket contains the session, encrypted, so that the server stores nothing. Keys from files are shared by all
//! instances that have these files; without files each instance makes its own.

use std::{fmt, fs, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{self, HKDF_SHA256, Salt},
};
use rustls::{crypto::aws_lc_rs::Ticketer, server::ProducesTickets};

use crate::{certificate::CertificateError, clock::Clock};

/// How long a ticket is accepted. The library's own tickets live for the same time.
const LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);
/// Minimum length of a key file. nginx and Apache use files of 48 and 80 bytes.
const MIN_KEY_FILE_BYTES: usize = 32;
/// Maximum length of a key file. Nothing longer is one.
const MAX_KEY_FILE_BYTES: u64 = 4096;
const NAME_BYTES: usize = 16;
const TIME_BYTES: usize = 8;
/// What precedes the encrypted session: the name of the key, the time of the ticket and a nonce.
const HEAD_BYTES: usize = NAME_BYTES + TIME_BYTES + NONCE_LEN;

/// Creates what issues tickets with the keys in `files`; with none, with keys that it makes and renews by itself.
///
/// # Errors
/// A file cannot be used, or the system has no random bytes.
pub(super) fn ticketer(files: &[PathBuf], clock: &Clock) -> Result<Tickets, CertificateError> {
    if files.is_empty() {
        return Ok(Tickets::Own(Ticketer::new()?));
    }
    let keys = ArcSwap::from_pointee(read_keys(files)?);
    Ok(Tickets::Shared(Arc::new(SharedTickets { keys, files: files.to_vec(), clock: clock.clone() })))
}

/// The tickets of a listener.
#[derive(Clone, Debug)]
pub(super) enum Tickets {
    /// Keys of this instance alone.
    Own(Arc<dyn ProducesTickets>),
    /// Keys from files.
    Shared(Arc<SharedTickets>),
}

impl Tickets {
    /// Reads the key files again. The returned function makes the keys current.
    pub(super) fn reload(&self) -> Result<impl FnOnce() + use<'_>, CertificateError> {
        let fresh = match self {
            Self::Own(_) => None,
            Self::Shared(shared) => Some((shared, read_keys(&shared.files)?)),
        };
        Ok(move || {
            if let Some((shared, keys)) = fresh {
                shared.keys.store(Arc::new(keys));
            }
        })
    }

    pub(super) fn producer(&self) -> Arc<dyn ProducesTickets> {
        match self {
            Self::Own(producer) => producer.clone(),
            Self::Shared(shared) => shared.clone(),
        }
    }
}

/// Tickets with the keys of files. The first key encrypts; all of them decrypt.
pub(super) struct SharedTickets {
    keys: ArcSwap<Vec<TicketKey>>,
    files: Vec<PathBuf>,
    clock: Clock,
}

/// A key, and the name by which a ticket refers to it.
struct TicketKey {
    name: [u8; NAME_BYTES],
    /// A nonce that two instances choose alike by chance does not reveal the key (RFC 8452).
    key: LessSafeKey,
}

impl fmt::Debug for SharedTickets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SharedTickets").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ProducesTickets for SharedTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME.as_secs() as u32
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        let keys = self.keys.load();
        let TicketKey { name, key } = keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).ok()?;
        let issued_at = self.clock.now().unix_millis().to_be_bytes();
        let mut ticket = [&name[..], &issued_at, &nonce].concat();
        let mut sealed = session.to_vec();
        let head = Aad::from(&ticket[..]);
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), head, &mut sealed).ok()?;
        ticket.append(&mut sealed);
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (head, sealed) = ticket.split_at_checked(HEAD_BYTES)?;
        let (name, rest) = head.split_first_chunk::<NAME_BYTES>()?;
        let (issued_at, nonce) = rest.split_first_chunk::<TIME_BYTES>()?;
        let keys = self.keys.load();
        let TicketKey { key, .. } = keys.iter().find(|key| key.name == *name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut session = sealed.to_vec();
        let bytes = key.open_in_place(nonce, Aad::from(head), &mut session).ok()?.len();
        session.truncate(bytes);
        let age_millis = self.clock.now().unix_millis().checked_sub(i64::from_be_bytes(*issued_at))?;
        (u128::try_from(age_millis).ok()? < LIFETIME.as_millis()).then_some(session)
    }
}

fn read_keys(files: &[PathBuf]) -> Result<Vec<TicketKey>, CertificateError> {
    let read = |path: &PathBuf| {
        let unusable = |problem: String| CertificateError::TicketKey { path: path.clone(), problem };
        let length = fs::metadata(path).map_err(|error| unusable(error.to_string()))?.len();
        let bytes = match length {
            ..=MAX_KEY_FILE_BYTES => fs::read(path).map_err(|error| unusable(error.to_string()))?,
            _ => return Err(unusable(format!("a ticket key must have at most {MAX_KEY_FILE_BYTES} bytes"))),
        };
        if bytes.len() < MIN_KEY_FILE_BYTES {
            let bytes = bytes.len();
            return Err(unusable(format!(
                "a ticket key must have at least {MIN_KEY_FILE_BYTES} random bytes, not {bytes}"
            )));
        }
        derive(&bytes).ok_or_else(|| unusable("no key can be derived from it".to_owned()))
    };
    files.iter().map(read).collect()
}

/// Derives the key and its name from the bytes of a file (RFC 5869).
fn derive(bytes: &[u8]) -> Option<TicketKey> {
    let secret = Salt::new(HKDF_SHA256, b"wardcast TLS session tickets").extract(bytes);
    let mut name = [0; NAME_BYTES];
    secret.expand(&[b"name"], Length(NAME_BYTES)).ok()?.fill(&mut name).ok()?;
    let key: UnboundKey = secret.expand(&[b"key"], &AES_256_GCM_SIV).ok()?.into();
    Some(TicketKey { name, key: LessSafeKey::new(key) })
}

/// A length in bytes.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: &[u8] = b"the keys of a session";

    fn tickets(clock: &Clock, bytes: &[u8]) -> SharedTickets {
        let keys = ArcSwap::from_pointee(vec![derive(bytes).unwrap()]);
        SharedTickets { keys, files: Vec::new(), clock: clock.clone() }
    }

    #[test]
    fn ticket_yields_its_session_until_it_is_12_hours_old() {
        let clock = Clock::default();
        let (one, other) = (tickets(&clock, &[1; 80]), tickets(&clock, &[1; 80]));
        let ticket = one.encrypt(SESSION).unwrap();
        assert!(
            !ticket.windows(8).any(|part| SESSION.windows(8).any(|plain| plain == part)),
            "the session is readable"
        );
        assert_ne!(one.encrypt(SESSION).unwrap(), ticket, "two tickets of a session can be told to be of one client");
        assert_eq!(other.decrypt(&ticket).as_deref(), Some(SESSION));
        clock.advance(LIFETIME - Duration::from_secs(1));
        assert_eq!(other.decrypt(&ticket).as_deref(), Some(SESSION));
        clock.advance(Duration::from_secs(1));
        assert_eq!(other.decrypt(&ticket), None);
    }

    #[test]
    fn changed_shortened_or_foreign_ticket_is_worthless() {
        let clock = Clock::default();
        let tickets_of_one = tickets(&clock, &[1; 80]);
        let ticket = tickets_of_one.encrypt(SESSION).unwrap();
        for at in 0..ticket.len() {
            assert_eq!(tickets_of_one.decrypt(&ticket[..at]), None, "{at} bytes");
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(tickets_of_one.decrypt(&changed), None, "byte {at}");
        }
        assert_eq!(tickets_of_one.decrypt(&[0; 4096]), None);
        assert_eq!(tickets(&clock, &[2; 80]).decrypt(&ticket), None);
    }
}
