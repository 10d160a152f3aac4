//! A revocation and its target, and their form outside of the process.

use serde::{Deserialize, Serialize};

use super::{
    Fingerprint, IssuerScope, TokenIds, fingerprint,
    identity::{CHANNEL, SESSION, TOKEN, USER, USER_WITHOUT_SESSION},
    issuer_number, scoped,
};
use crate::{
    channel::Channel,
    clock::{NEVER, WallTime},
    publication::is_valid_user,
};

/// Maximum length of a `jti`, `sid` or `iss` that can be revoked.
pub const MAX_TOKEN_ID_BYTES: usize = 255;

/// Separates the parts of a target in its text. None of them may contain it.
const SEPARATOR: char = '\0';

/// The tokens that a revocation means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RevocationTarget {
    /// The token with this `jti`.
    Token(String, IssuerScope),
    /// All tokens with this `sid`.
    Session(String, IssuerScope),
    /// The tokens of a user that were issued before a time.
    User(String, IssuerScope),
    /// The same, but not those with a `sid`: nothing else tells which session of the user a token without one belongs to.
    UserWithoutSession(String, IssuerScope),
    /// The tokens of a user that were issued before a time, in one channel only: subscription tokens for it, and what connection tokens allow there.
    Channel(String, Channel),
}

impl RevocationTarget {
    /// Returns the target that means a token, with the other tokens of its `sid` if it has one; `None` if nothing names it.
    pub fn of_token(ids: &TokenIds) -> Option<Self> {
        let target = |id: &Option<String>, kind: fn(String, IssuerScope) -> Self| Some(kind(id.clone()?, ids.scope()));
        let targets = [target(&ids.sid, Self::Session), target(&ids.jti, Self::Token)];
        targets.into_iter().flatten().find(Self::is_valid)
    }

    /// Returns the fingerprint under which the list has the target.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        let name = match self {
            Self::Token(jti, _) => fingerprint(TOKEN, jti, ""),
            Self::Session(sid, _) => fingerprint(SESSION, sid, ""),
            Self::User(user, _) => fingerprint(USER, user, ""),
            Self::UserWithoutSession(user, _) => fingerprint(USER_WITHOUT_SESSION, user, ""),
            Self::Channel(user, channel) => fingerprint(CHANNEL, user, channel.as_str()),
        };
        self.issuer().map_or(name, |issuer| scoped(name, issuer_number(issuer)))
    }

    /// Returns the `iss` of the tokens, if only those of one issuer are meant; empty for tokens without one.
    pub fn issuer(&self) -> Option<&str> {
        match self {
            Self::Token(_, scope)
            | Self::Session(_, scope)
            | Self::User(_, scope)
            | Self::UserWithoutSession(_, scope) => scope.issuer(),
            Self::Channel(..) => None,
        }
    }

    /// Returns the fingerprint of the id that tokens have in common, if it is one: with tokens of other issuers.
    pub fn token_id(&self) -> Option<Fingerprint> {
        match self {
            Self::Token(jti, _) => Some(fingerprint(TOKEN, jti, "")),
            Self::Session(sid, _) => Some(fingerprint(SESSION, sid, "")),
            Self::User(..) | Self::UserWithoutSession(..) | Self::Channel(..) => None,
        }
    }

    /// Returns the user whose tokens are meant, if it is one user.
    pub fn user(&self) -> Option<&str> {
        match self {
            Self::Token(..) | Self::Session(..) => None,
            Self::User(user, _) | Self::UserWithoutSession(user, _) | Self::Channel(user, _) => Some(user),
        }
    }

    /// Returns whether the texts may be those of tokens and users.
    pub fn is_valid(&self) -> bool {
        let is_text = |id: &str| id.len() <= MAX_TOKEN_ID_BYTES && !id.contains(char::is_control);
        let is_name = match self {
            Self::Token(id, _) | Self::Session(id, _) => !id.is_empty() && is_text(id),
            Self::User(user, _) | Self::UserWithoutSession(user, _) | Self::Channel(user, _) => {
                !user.is_empty() && is_valid_user(user)
            }
        };
        is_name && self.issuer().is_none_or(is_text)
    }

    /// Returns the text that stands for the target outside of this process.
    pub fn to_text(&self) -> String {
        let (kind, name, scope) = match self {
            Self::Token(id, scope) => ('j', id, scope.issuer()),
            Self::Session(id, scope) => ('s', id, scope.issuer()),
            Self::User(user, scope) => ('u', user, scope.issuer()),
            Self::UserWithoutSession(user, scope) => ('n', user, scope.issuer()),
            Self::Channel(user, channel) => ('c', user, Some(channel.as_str())),
        };
        match scope {
            None => format!("{kind}:{name}"),
            Some(scope) => format!("{kind}:{name}{SEPARATOR}{scope}"),
        }
    }

    /// Reads what [`Self::to_text`] has written; `None` if it is not valid.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let (name, scope) = match rest.split_once(SEPARATOR) {
            None => (rest.to_owned(), IssuerScope::Any),
            Some((name, scope)) => (name.to_owned(), IssuerScope::Only(scope.to_owned())),
        };
        let target = match kind {
            "j" => Self::Token(name, scope),
            "s" => Self::Session(name, scope),
            "u" => Self::User(name, scope),
            "n" => Self::UserWithoutSession(name, scope),
            "c" => Self::Channel(name, Channel::new(scope.issuer()?).ok()?),
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
    use crate::revocation::TokenIdentity;

    fn only(issuer: &str) -> IssuerScope {
        IssuerScope::Only(issuer.to_owned())
    }

    #[test]
    fn targets_survive_text_and_nothing_else_is_read() {
        let channel = Channel::new("chat:1").unwrap();
        for target in [
            RevocationTarget::Token("a:b".to_owned(), IssuerScope::Any),
            RevocationTarget::Token("a:b".to_owned(), only("https://id.example.com/a")),
            RevocationTarget::Session("s".to_owned(), only("")),
            RevocationTarget::User("é u".to_owned(), IssuerScope::Any),
            RevocationTarget::User("ann".to_owned(), only("é")),
            RevocationTarget::UserWithoutSession("ann".to_owned(), only("i")),
            RevocationTarget::Channel("ann:b".to_owned(), channel),
        ] {
            assert_eq!(RevocationTarget::parse(&target.to_text()), Some(target.clone()));
            let revocation =
                Revocation { issued_before: WallTime::from_unix_millis(7), ..Revocation::of_all(target, NEVER) };
            let json = serde_json::to_string(&revocation).unwrap();
            assert_eq!(serde_json::from_str::<Revocation>(&json).unwrap(), revocation, "{json}");
        }
        let (long, long_issuer) = (format!("j:{}", "x".repeat(256)), format!("j:a\0{}", "x".repeat(256)));
        let bad =
            ["", "j", "j:", "u:", "x:a", "c:a", "c:a\0", "c:\0news", "c:a\0a*", "j:\0i", "j:a\0\0", "j:a\n", "u:a\0\n"];
        for bad in bad.into_iter().chain([long.as_str(), &long_issuer]) {
            assert_eq!(RevocationTarget::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn equal_texts_of_different_kinds_have_different_fingerprints() {
        let one = || Some("1".to_owned());
        let token = TokenIdentity::new(&TokenIds { issuer: None, jti: one(), sid: one() }, None);
        assert_ne!(token.jti, token.sid);
        assert_eq!(token.jti, RevocationTarget::Token("1".to_owned(), only("a")).token_id());
        assert_eq!(token.sid, RevocationTarget::Session("1".to_owned(), IssuerScope::Any).token_id());
        let empty = TokenIds { issuer: Some(String::new()), jti: Some(String::new()), sid: None };
        assert_eq!(TokenIdentity::new(&empty, None), TokenIdentity::default());
    }

    #[test]
    fn token_is_named_by_its_session_or_else_by_its_own_id_within_its_issuer() {
        let text = |text: &str| Some(text.to_owned());
        let target = |issuer, jti, sid| RevocationTarget::of_token(&TokenIds { issuer, jti, sid });
        let (token, session) = (RevocationTarget::Token, RevocationTarget::Session);
        assert_eq!(target(text("i"), text("1"), text("s")), Some(session("s".to_owned(), only("i"))));
        assert_eq!(target(None, text("1"), None), Some(token("1".to_owned(), only(""))));
        assert_eq!(target(None, text("1"), text("")), Some(token("1".to_owned(), only(""))));
        assert_eq!(target(None, text("1"), text("a\n")), Some(token("1".to_owned(), only(""))));
        assert_eq!(target(text("i"), None, None), None);
        assert_eq!(target(text(&"i".repeat(256)), text("1"), None), None, "no revocation can name its issuer");
    }
}
