//! Signatures of what the instances of an installation send and store in Redis (`broker.redis.bus_key`), so that a program that
//! can write to Redis, but does not know the key, can command no session and forge no publication.
//!
//! A signed message is `"WC"`, the version, `S`, the signature, the time of the signature (Unix milliseconds, i64, big-endian),
//! and the message that is signed. The signature is HMAC-SHA256 of the time and of that message. A message names its channel or
//! its survey, so its signature is worth nothing in another place. It is worth nothing in another installation either: the key of
//! the HMAC is made from the configured key and the prefix.

use std::time::Duration;

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign, verify};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::{Buf, Bytes};

use super::{DropReason, MAGIC, VERSION, begin_message};
use crate::{
    clock::{Clock, WallTime},
    config::RedisConfig,
};

/// Kind of a signed message.
pub(super) const SIGNED: u8 = b'S';
/// Bytes of HMAC-SHA256.
const SIGNATURE_BYTES: usize = 32;
/// Bytes of a signed message before those that are signed.
const HEAD_BYTES: usize = MAGIC.len() + 2 + SIGNATURE_BYTES;
/// What a signature adds to a message.
pub(in crate::broker::redis) const SIGNED_HEAD_BYTES: usize = HEAD_BYTES + size_of::<i64>();

/// Maximum difference between the time of a signature and this instance's clock, for messages of the control channel. A client
/// of Redis that can read such a message can send it again only for that long.
const MAX_AGE: Duration = Duration::from_secs(60);

/// Signs messages, and checks signatures.
pub(in crate::broker::redis) struct MessageSigner {
    /// Signs. `None`: messages are not signed.
    key: Option<Key>,
    /// Those whose signatures are accepted.
    accepted: Vec<Key>,
    /// Messages without a signature are accepted.
    accepts_unsigned: bool,
    clock: Clock,
}

/// A message whose signature is right, or was not asked for.
pub(super) struct VerifiedMessage {
    /// The message itself.
    pub(super) message: Bytes,
    /// When it was signed, if this instance has checked that.
    pub(super) signed_at: Option<WallTime>,
}

impl MessageSigner {
    /// Takes the keys from the configuration.
    pub(in crate::broker::redis) fn new(config: &RedisConfig, clock: Clock) -> Self {
        let key = |text: &str| {
            let context = [b"wardcast bus ", config.prefix.as_bytes()].concat();
            let derived = sign(&Key::new(HMAC_SHA256, text.as_bytes()), &context);
            (!text.is_empty()).then(|| Key::new(HMAC_SHA256, derived.as_ref()))
        };
        let (own, other) = (key(config.bus_key.expose()), key(config.bus_key_accepted.expose()));
        Self {
            accepts_unsigned: config.bus_accept_unsigned || own.is_none(),
            accepted: own.iter().chain(&other).cloned().collect(),
            key: own,
            clock,
        }
    }

    /// Signs nothing and accepts everything.
    #[cfg(test)]
    pub(in crate::broker::redis) fn without_key() -> Self {
        Self { key: None, accepted: Vec::new(), accepts_unsigned: true, clock: Clock::default() }
    }

    /// Signs a message, if there is a key.
    pub(in crate::broker::redis) fn sign(&self, message: Vec<u8>) -> Vec<u8> {
        let Some(key) = &self.key else { return message };
        let mut signed = begin_message(SIGNED, SIGNED_HEAD_BYTES + message.len());
        signed.extend_from_slice(&[0; SIGNATURE_BYTES]);
        signed.extend_from_slice(&self.clock.now().unix_millis().to_be_bytes());
        signed.extend_from_slice(&message);
        let signature = sign(key, &signed[HEAD_BYTES..]);
        signed[HEAD_BYTES - SIGNATURE_BYTES..HEAD_BYTES].copy_from_slice(signature.as_ref());
        signed
    }

    /// Returns the signature of a text that Redis stores, if there is a key.
    pub(in crate::broker::redis) fn sign_text(&self, text: &str) -> Option<String> {
        let signature = sign(self.key.as_ref()?, text.as_bytes());
        Some(BASE64_URL_SAFE_NO_PAD.encode(signature))
    }

    /// Checks the signature of a text that Redis stores, as [`Self::verify`] does with a message.
    pub(in crate::broker::redis) fn verify_text(&self, text: &str, signature: Option<&str>) -> Result<(), DropReason> {
        let Some(signature) = signature else {
            return if self.accepts_unsigned { Ok(()) } else { Err(DropReason("unsigned")) };
        };
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).map_err(|_| DropReason("forged"))?;
        let is_right = self.accepted.iter().any(|key| verify(key, text.as_bytes(), &signature).is_ok());
        if is_right || self.accepted.is_empty() { Ok(()) } else { Err(DropReason("forged")) }
    }

    /// Checks the signature of a message, and returns the message without it. An instance without a key accepts every
    /// signature, so that a key can be introduced while instances without one still run.
    pub(super) fn verify(&self, mut message: Bytes) -> Result<VerifiedMessage, DropReason> {
        if !message.starts_with(&[MAGIC[0], MAGIC[1], VERSION, SIGNED]) {
            let verified = VerifiedMessage { message, signed_at: None };
            return if self.accepts_unsigned { Ok(verified) } else { Err(DropReason("unsigned")) };
        }
        if message.len() < SIGNED_HEAD_BYTES {
            return Err(DropReason("truncated"));
        }
        let head = message.split_to(HEAD_BYTES);
        let signature = &head[HEAD_BYTES - SIGNATURE_BYTES..];
        // Compares in constant time.
        let is_right = self.accepted.iter().any(|key| verify(key, &message, signature).is_ok());
        if !is_right && !self.accepted.is_empty() {
            return Err(DropReason("forged"));
        }
        let signed_at = WallTime::from_unix_millis(message.get_i64());
        Ok(VerifiedMessage { message, signed_at: is_right.then_some(signed_at) })
    }

    /// Checks the signature of a record that nodes renew at least every `max_age`, and returns the record without it. A program
    /// that can read Redis could store an old one again.
    pub(in crate::broker::redis) fn verify_record(
        &self,
        record: Bytes,
        max_age: Duration,
    ) -> Result<Bytes, DropReason> {
        let verified = self.verify(record)?;
        self.require_signed_within(max_age.max(MAX_AGE), &verified)?;
        Ok(verified.message)
    }

    /// Checks that a message was signed just now.
    pub(super) fn require_recent(&self, verified: &VerifiedMessage) -> Result<(), DropReason> {
        self.require_signed_within(MAX_AGE, verified)
    }

    /// Returns whether messages that have waited for so long in the sockets of this process may be refused as too old. Half of
    /// the time: the clocks of two nodes may differ.
    pub(in crate::broker::redis) fn may_refuse_after(&self, waited: Duration) -> bool {
        !self.accepted.is_empty() && waited >= MAX_AGE / 2
    }

    fn require_signed_within(&self, max_age: Duration, verified: &VerifiedMessage) -> Result<(), DropReason> {
        let now = self.clock.now();
        let difference = |signed_at: WallTime| signed_at.max(now).saturating_duration_since(signed_at.min(now));
        let is_recent = verified.signed_at.is_none_or(|signed_at| difference(signed_at) <= max_age);
        if is_recent { Ok(()) } else { Err(DropReason("stale")) }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{super::names::MessageSource, decode, decode_record, encode_control, encode_publication},
        *,
    };
    use crate::{
        broker::{Control, ControlAction},
        channel::Channel,
        config::{Config, Secret},
        publication::Publication,
    };

    const MESSAGE: &[u8] = b"WC\x01pmessage";

    fn signer(key: &str, accepted: &str, bus_accept_unsigned: bool) -> MessageSigner {
        with_prefix("wardcast", key, accepted, bus_accept_unsigned)
    }

    fn with_prefix(prefix: &str, key: &str, accepted: &str, bus_accept_unsigned: bool) -> MessageSigner {
        let config = RedisConfig {
            prefix: prefix.to_owned(),
            bus_key: Secret::new(key),
            bus_key_accepted: Secret::new(accepted),
            bus_accept_unsigned,
            ..Config::default().broker.redis
        };
        MessageSigner::new(&config, Clock::default())
    }

    #[test]
    fn only_a_signature_with_an_accepted_key_is_right() {
        let (old, new, none) = (signer("old", "", false), signer("new", "", false), signer("", "", false));
        let (both, introducing) = (signer("new", "old", false), signer("old", "", true));
        let other_prefix = with_prefix("other", "old", "", false);
        for (from, to, expected) in [
            (&old, &old, Ok(())),
            (&old, &new, Err("forged")),
            (&none, &old, Err("unsigned")),
            (&none, &none, Ok(())),
            (&other_prefix, &old, Err("forged")),
            // While a key is changed.
            (&old, &both, Ok(())),
            (&new, &both, Ok(())),
            (&both, &new, Ok(())),
            (&both, &old, Err("forged")),
            // While the first key is introduced.
            (&none, &introducing, Ok(())),
            (&introducing, &none, Ok(())),
            (&introducing, &old, Ok(())),
            (&new, &introducing, Err("forged")),
        ] {
            let verified = to.verify(from.sign(MESSAGE.to_vec()).into());
            let transferred = verified.map(|verified| verified.message).map_err(|DropReason(reason)| reason);
            assert_eq!(transferred, expected.map(|()| Bytes::from_static(MESSAGE)));
        }
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let signer = signer("key", "", false);
        let signed = signer.sign(MESSAGE.to_vec());
        assert_eq!(signed.len(), SIGNED_HEAD_BYTES + MESSAGE.len());
        assert!(signer.verify(signed.clone().into()).is_ok());
        for at in 0..signed.len() {
            let mut changed = signed.clone();
            changed[at] ^= 1;
            assert!(signer.verify(changed.into()).is_err(), "byte {at}");
            assert!(signer.verify(signed[..at].to_vec().into()).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn signature_is_recent_for_a_minute_by_the_clocks_of_both() {
        let (sender, receiver) = (signer("key", "", false), signer("key", "", false));
        let is_recent = || {
            let verified = receiver.verify(sender.sign(MESSAGE.to_vec()).into()).unwrap();
            receiver.require_recent(&verified).is_ok()
        };
        assert!(is_recent());
        sender.clock.step_back(Duration::from_secs(59));
        assert!(is_recent());
        sender.clock.step_back(Duration::from_secs(2));
        assert!(!is_recent());
        receiver.clock.step_back(Duration::from_secs(110));
        assert!(is_recent());
        receiver.clock.step_back(Duration::from_secs(15));
        assert!(!is_recent());
        let unsigned = signer("key", "", true).verify(Bytes::from_static(MESSAGE)).unwrap();
        assert!(receiver.require_recent(&unsigned).is_ok());
    }

    #[test]
    fn record_is_valid_for_a_minute_or_as_long_as_it_is_stored() {
        let (node, reader) = (signer("key", "", false), signer("key", "", false));
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        node.clock.step_back(minutes(2));
        let record = Bytes::from(node.sign(b"1 version=1".to_vec()));
        let read = |max_age| reader.verify_record(record.clone(), max_age);
        assert_eq!(read(minutes(3)).unwrap(), b"1 version=1".as_slice());
        assert_eq!(read(Duration::from_secs(15)), Err(DropReason("stale")));
        reader.clock.step_back(Duration::from_secs(90));
        assert!(read(Duration::from_secs(15)).is_ok());
        let forged = signer("other", "", false).sign(b"1 version=1".to_vec());
        assert_eq!(reader.verify_record(forged.into(), minutes(3)), Err(DropReason("forged")));
    }

    #[test]
    fn control_that_is_sent_again_later_is_dropped_and_a_record_stays_valid() {
        let (sender, receiver) = (signer("key", "", false), signer("key", "", false));
        sender.clock.step_back(Duration::from_secs(61));
        let action = ControlAction::Unsubscribe { channel: "news".to_owned() };
        let control = Control { user: "ann".to_owned(), client: None, whitelist: Vec::new(), action };
        let message = Bytes::from(sender.sign(encode_control(&control)));
        let old = receiver.require_recent(&receiver.verify(message.clone()).unwrap()).unwrap_err();
        assert_eq!(decode(MessageSource::Control, message, &receiver), Err(old));
        let channel = Channel::new("news").unwrap();
        let record = sender.sign(encode_publication(&Publication::new(channel.clone(), Bytes::from_static(b"1"))));
        assert!(decode_record(channel, record.into(), &receiver).is_ok());
    }
}
