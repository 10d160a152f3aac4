//! A revocation as Redis keeps it: a field of the list, whose value is its two times. Each time has a signature of its own, which
//! names the target, because the script keeps the later one of either.

use super::envelope::{DropReason, MessageSigner};
use crate::{
    clock::{NEVER, WallTime},
    revocation::{Revocation, RevocationTarget},
};

/// Separates a time and its signature.
const SIGNATURE_SEPARATOR: char = '.';

/// The texts of a revocation. A time is milliseconds since 1970, or empty for all tokens whenever they were issued; then a dot
/// and the signature, if the instances sign.
pub(super) struct StoredRevocation {
    pub(super) target: String,
    pub(super) expiry: String,
    pub(super) issued_before: String,
}

impl StoredRevocation {
    /// Writes a revocation.
    pub(super) fn new(revocation: &Revocation, signer: &MessageSigner) -> Self {
        let Revocation { target, issued_before, expires_at } = revocation;
        let target = target.to_text();
        let signed = |name: &str, time: String| match signer.sign_text(&signed_text(name, &target, &time)) {
            Some(signature) => format!("{time}{SIGNATURE_SEPARATOR}{signature}"),
            None => time,
        };
        let issued = if *issued_before == NEVER { String::new() } else { issued_before.unix_millis().to_string() };
        let (expiry, issued_before) =
            (signed("expiry", expires_at.unix_millis().to_string()), signed("issued", issued));
        Self { target, expiry, issued_before }
    }

    /// Reads a field of the list and its value.
    ///
    /// # Errors
    /// Another program has written it.
    pub(super) fn read(target: &[u8], times: &[u8], signer: &MessageSigner) -> Result<Revocation, DropReason> {
        const MALFORMED: DropReason = DropReason("revocation");
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| MALFORMED);
        let (target_text, times) = (text(target)?, text(times)?);
        let target = RevocationTarget::parse(target_text).ok_or(MALFORMED)?;
        let (expiry, issued) = times.split_once(' ').ok_or(MALFORMED)?;
        let verified = |name: &str, value: &str| {
            let (time, signature) = match value.split_once(SIGNATURE_SEPARATOR) {
                Some((time, signature)) => (time.to_owned(), Some(signature)),
                None => (value.to_owned(), None),
            };
            signer.verify_text(&signed_text(name, target_text, &time), signature).map(|()| time)
        };
        let (expiry, issued) = (verified("expiry", expiry)?, verified("issued", issued)?);
        let date = |millis: &str| millis.parse().map(WallTime::from_unix_millis).map_err(|_| MALFORMED);
        let issued_before = if issued.is_empty() { NEVER } else { date(&issued)? };
        Ok(Revocation { target, issued_before, expires_at: date(&expiry)? })
    }
}

/// What a signature is for. A target has no line feed.
fn signed_text(name: &str, target: &str, time: &str) -> String {
    format!("revocation {name}\n{target}\n{time}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Config, RedisConfig, Secret},
        revocation::IssuerScope,
    };

    fn signer(key: &str, accepted: &str) -> MessageSigner {
        let (bus_key, bus_key_accepted) = (Secret::new(key), Secret::new(accepted));
        let config = RedisConfig { bus_key, bus_key_accepted, ..Config::default().broker.redis };
        MessageSigner::new(&config, Default::default())
    }

    fn revocation(user: &str, issued_before: i64) -> Revocation {
        let target = RevocationTarget::User(user.to_owned(), IssuerScope::Any);
        let issued_before = WallTime::from_unix_millis(issued_before);
        Revocation { issued_before, ..Revocation::of_all(target, WallTime::LATEST_DATE) }
    }

    fn read(stored: &StoredRevocation, signer: &MessageSigner) -> Result<Revocation, DropReason> {
        let times = format!("{} {}", stored.expiry, stored.issued_before);
        StoredRevocation::read(stored.target.as_bytes(), times.as_bytes(), signer)
    }

    #[test]
    fn revocation_is_read_only_with_a_signature_by_an_accepted_key_if_there_is_one() {
        let (none, old, new) = (signer("", ""), signer("old", ""), signer("new", "old"));
        for revocation in [revocation("ann", 7), Revocation { issued_before: NEVER, ..revocation("ann", 7) }] {
            let (unsigned, signed) =
                (StoredRevocation::new(&revocation, &none), StoredRevocation::new(&revocation, &old));
            assert_eq!(read(&unsigned, &none), Ok(revocation.clone()));
            assert_eq!(read(&unsigned, &old), Err(DropReason("unsigned")));
            for reader in [&none, &old, &new] {
                assert_eq!(read(&signed, reader), Ok(revocation.clone()));
            }
            assert_eq!(read(&StoredRevocation::new(&revocation, &new), &old), Err(DropReason("forged")));
        }
    }

    #[test]
    fn signature_is_worth_nothing_for_another_target_or_time() {
        let key = signer("key", "");
        let of = |user, issued| StoredRevocation::new(&revocation(user, issued), &key);
        let (ann, bob, later) = (of("ann", 7), of("bob", 7), of("ann", 9));
        let forged = Err(DropReason("forged"));
        assert_eq!(read(&StoredRevocation { target: bob.target, ..of("ann", 7) }, &key), forged);
        let moved = ann.expiry.replacen('9', "8", 1);
        assert_eq!(read(&StoredRevocation { expiry: moved, ..of("ann", 7) }, &key), forged);
        let swapped = StoredRevocation { issued_before: ann.expiry.clone(), ..of("ann", 7) };
        assert_eq!(read(&swapped, &key), forged);
        // As the script merges two of them.
        let merged = StoredRevocation { issued_before: later.issued_before, ..ann };
        assert_eq!(read(&merged, &key), Ok(revocation("ann", 9)));
    }
}
