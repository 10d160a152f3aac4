//! Revocations: tokens that are void before they expire. [`RevocationList`] is pure and answers in constant time;
//! [`Revocations`] shares it between the verifier, which refuses revoked tokens, the hubs, which close the sessions that have
//! one, and the broker, which keeps the list for all instances.

mod list;
mod shared;

use std::{
    hash::BuildHasher,
    num::{NonZeroU32, NonZeroU64},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
};

use serde::{Deserialize, Serialize};

use crate::{
    channel::Channel,
    clock::{NEVER, WallTime},
    publication::is_valid_user,
};

pub use self::{
    list::{ListFull, RevocationList},
    shared::{Changes, RevocationState, Revocations},
};

/// Maximum length of a `jti` or `sid` that can be revoked.
pub const MAX_TOKEN_ID_BYTES: usize = 255;

/// Between the user and the channel of [`RevocationTarget::Channel`] in its text. Neither may contain it.
const SEPARATOR: char = '\0';

/// A number for a text, different for different texts: it takes the place of `jti` and `sid` in the memory of each session.
pub type Fingerprint = NonZeroU64;

/// Random for each process, so that an attacker cannot find two texts with one fingerprint.
static FINGERPRINT_KEY: LazyLock<std::hash::RandomState> = LazyLock::new(std::hash::RandomState::new);

fn fingerprint(kind: u8, first: &str, second: &str) -> Fingerprint {
    let hash = FINGERPRINT_KEY.hash_one((kind, first, second));
    NonZeroU64::new(hash).unwrap_or(NonZeroU64::MIN)
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

/// What a revocation can name of a verified token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenIdentity {
    /// `jti`.
    pub jti: Option<Fingerprint>,
    /// `sid`: the session at the identity provider, which may issue several tokens.
    pub sid: Option<Fingerprint>,
    /// `iat`; 1970 without one, so that every revocation of the user means the token.
    pub issued_at: WallTime,
    /// The key that has verified it. When the key is no longer in use, the token is revoked.
    pub key: Option<KeyNumber>,
}

impl TokenIdentity {
    /// Creates the identity of a token with these claims.
    pub fn new(jti: Option<&str>, sid: Option<&str>, issued_at: Option<WallTime>) -> Self {
        let non_empty = |id: &&str| !id.is_empty();
        Self {
            jti: jti.filter(non_empty).map(|jti| fingerprint(RevocationTarget::TOKEN, jti, "")),
            sid: sid.filter(non_empty).map(|sid| fingerprint(RevocationTarget::SESSION, sid, "")),
            issued_at: issued_at.unwrap_or_default(),
            key: None,
        }
    }

    /// Returns the fingerprints of `jti` and `sid`.
    pub fn ids(&self) -> impl Iterator<Item = Fingerprint> + use<> {
        [self.jti, self.sid].into_iter().flatten()
    }
}

/// The tokens that a revocation means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RevocationTarget {
    /// The token with this `jti`.
    Token(String),
    /// All tokens with this `sid`.
    Session(String),
    /// The tokens of a user that were issued before a time.
    User(String),
    /// The same, in one channel only: subscription tokens for it, and what connection tokens allow there.
    Channel(String, Channel),
}

impl RevocationTarget {
    const TOKEN: u8 = b'j';
    const SESSION: u8 = b's';
    const USER: u8 = b'u';
    const CHANNEL: u8 = b'c';

    fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Token(jti) => fingerprint(Self::TOKEN, jti, ""),
            Self::Session(sid) => fingerprint(Self::SESSION, sid, ""),
            Self::User(user) => fingerprint(Self::USER, user, ""),
            Self::Channel(user, channel) => fingerprint(Self::CHANNEL, user, channel.as_str()),
        }
    }

    /// Returns the fingerprint of the id that tokens have in common, if it is one.
    pub fn token_id(&self) -> Option<Fingerprint> {
        matches!(self, Self::Token(_) | Self::Session(_)).then(|| self.fingerprint())
    }

    /// Returns the user whose tokens are meant, if it is one user.
    pub fn user(&self) -> Option<&str> {
        match self {
            Self::Token(_) | Self::Session(_) => None,
            Self::User(user) | Self::Channel(user, _) => Some(user),
        }
    }

    /// Returns whether the texts may be those of tokens and users.
    pub fn is_valid(&self) -> bool {
        match self {
            Self::Token(id) | Self::Session(id) => {
                (1..=MAX_TOKEN_ID_BYTES).contains(&id.len()) && !id.contains(char::is_control)
            }
            Self::User(user) | Self::Channel(user, _) => !user.is_empty() && is_valid_user(user),
        }
    }

    /// Returns the text that stands for the target outside of this process.
    pub fn to_text(&self) -> String {
        match self {
            Self::Token(id) => format!("j:{id}"),
            Self::Session(id) => format!("s:{id}"),
            Self::User(user) => format!("u:{user}"),
            Self::Channel(user, channel) => format!("c:{user}{SEPARATOR}{}", channel.as_str()),
        }
    }

    /// Reads what [`Self::to_text`] has written; `None` if it is not valid.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let target = match kind {
            "j" => Self::Token(rest.to_owned()),
            "s" => Self::Session(rest.to_owned()),
            "u" => Self::User(rest.to_owned()),
            "c" => {
                let (user, channel) = rest.split_once(SEPARATOR)?;
                Self::Channel(user.to_owned(), Channel::new(channel).ok()?)
            }
            _ => return None,
        };
        target.is_valid().then_some(target)
    }
}

/// A revocation: the tokens, and until when it lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RevocationRecord", into = "RevocationRecord")]
pub struct Revocation {
    /// The tokens.
    pub target: RevocationTarget,
    /// Only tokens that were issued before this time are meant. [`NEVER`]: all.
    pub issued_before: WallTime,
    /// When the tokens have expired, so that the revocation is not needed any more.
    pub expires_at: WallTime,
}

impl Revocation {
    /// Creates a revocation of all tokens of the target.
    pub fn of_all(target: RevocationTarget, expires_at: WallTime) -> Self {
        Self { target, issued_before: NEVER, expires_at }
    }
}

/// A revocation as JSON, which instances send one another.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevocationRecord {
    target: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issued_before: Option<WallTime>,
    expires_at: WallTime,
}

impl From<Revocation> for RevocationRecord {
    fn from(Revocation { target, issued_before, expires_at }: Revocation) -> Self {
        let issued_before = Some(issued_before).filter(|before| *before != NEVER);
        Self { target: target.to_text(), issued_before, expires_at }
    }
}

impl TryFrom<RevocationRecord> for Revocation {
    type Error = &'static str;

    fn try_from(record: RevocationRecord) -> Result<Self, Self::Error> {
        let RevocationRecord { target, issued_before, expires_at } = record;
        let target = RevocationTarget::parse(&target).ok_or("invalid target of a revocation")?;
        Ok(Self { target, issued_before: issued_before.unwrap_or(NEVER), expires_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_survive_text_and_nothing_else_is_read() {
        let channel = Channel::new("chat:1").unwrap();
        for target in [
            RevocationTarget::Token("a:b".to_owned()),
            RevocationTarget::Session("s".to_owned()),
            RevocationTarget::User("é u".to_owned()),
            RevocationTarget::Channel("ann:b".to_owned(), channel),
        ] {
            assert_eq!(RevocationTarget::parse(&target.to_text()), Some(target.clone()));
            let revocation =
                Revocation { issued_before: WallTime::from_unix_millis(7), ..Revocation::of_all(target, NEVER) };
            let json = serde_json::to_string(&revocation).unwrap();
            assert_eq!(serde_json::from_str::<Revocation>(&json).unwrap(), revocation, "{json}");
        }
        let long = format!("j:{}", "x".repeat(256));
        for bad in ["", "j", "j:", "u:", "x:a", "c:a", "c:a\0", "c:\0news", "c:a\0a*", "u:a\0", "j:a\n", &long] {
            assert_eq!(RevocationTarget::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn equal_texts_of_different_kinds_have_different_fingerprints() {
        let token = TokenIdentity::new(Some("1"), Some("1"), None);
        assert_ne!(token.jti, token.sid);
        assert_eq!(token.jti, RevocationTarget::Token("1".to_owned()).token_id());
        assert_eq!(token.sid, RevocationTarget::Session("1".to_owned()).token_id());
        assert_eq!(TokenIdentity::new(Some(""), None, None), TokenIdentity::default());
    }
}
