//! Revocations: tokens that are void before they expire. [`RevocationList`] is pure and answers in constant time;
//! [`Revocations`] shares it between the verifier, which refuses revoked tokens, the hubs, which close the sessions that have
//! one, and the broker, which keeps the list for all instances.

mod identity;
mod list;
mod login_id;
mod shared;
mod target;

use std::{
    hash::BuildHasher,
    num::{NonZeroU32, NonZeroU64},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
};

pub use self::{
    identity::{IssuerScope, TokenIdentity, TokenIds},
    list::{KeyInUse, ListFull, RevocationList},
    login_id::{LoginId, user_tag},
    shared::{Changes, IssueTimes, RevocationState, Revocations},
    target::{MAX_TOKEN_ID_BYTES, Revocation, RevocationTarget},
};

/// A number for a text, different for different texts: it takes the place of `jti` and `sid` in the memory of each session.
pub type Fingerprint = NonZeroU64;

/// Random for each process, so that an attacker cannot find two texts with one fingerprint.
static FINGERPRINT_KEY: LazyLock<std::hash::RandomState> = LazyLock::new(std::hash::RandomState::new);

fn fingerprint(kind: u8, first: &str, second: &str) -> Fingerprint {
    let hash = FINGERPRINT_KEY.hash_one((kind, first, second));
    NonZeroU64::new(hash).unwrap_or(NonZeroU64::MIN)
}

/// Returns the fingerprint of a name within one issuer.
fn scoped(name: Fingerprint, issuer: u32) -> Fingerprint {
    let hash = FINGERPRINT_KEY.hash_one((name, issuer));
    NonZeroU64::new(hash).unwrap_or(NonZeroU64::MIN)
}

/// Returns a number for an `iss`; 0 for none. One in four billion pairs of issuers has the same number, and no issuer can choose its own;
/// a revocation of a `jti` then also means the same `jti` of the other issuer.
fn issuer_number(issuer: &str) -> u32 {
    if issuer.is_empty() { 0 } else { (FINGERPRINT_KEY.hash_one(issuer) as u32).max(1) }
}

/// The number of a key that verifies tokens. No other key of the process has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyNumber(NonZeroU32);

impl KeyNumber {
    /// Returns a number that was never returned before.
    pub fn unique() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let next = LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        Self(NonZeroU32::new(next).unwrap_or(NonZeroU32::MIN))
    }
}
