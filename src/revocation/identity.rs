//! The ids by which a token can be revoked, and the check whether a revocation applies to it.

use super::{Fingerprint, IssueTimes, KeyNumber, fingerprint, issuer_number};
use crate::clock::WallTime;

/// Kinds of names. Equal texts of different kinds have different fingerprints.
pub(super) const TOKEN: u8 = b'j';
pub(super) const SESSION: u8 = b's';
pub(super) const USER: u8 = b'u';
pub(super) const USER_WITHOUT_SESSION: u8 = b'n';
pub(super) const CHANNEL: u8 = b'c';

/// The claims of a token by which it can be revoked, as it has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenIds {
    /// `iss`, within which `jti` and `sid` are unique.
    pub issuer: Option<String>,
    /// `jti`.
    pub jti: Option<String>,
    /// `sid`: the session at the identity provider or of a login, which may have several tokens.
    pub sid: Option<String>,
}

impl TokenIds {
    /// Returns the issuer of the token, for a revocation that means no tokens of other issuers.
    pub fn scope(&self) -> IssuerScope {
        IssuerScope::Only(self.issuer.clone().unwrap_or_default())
    }
}

/// The ids of a verified token that a revocation can name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenIdentity {
    /// `jti`.
    pub jti: Option<Fingerprint>,
    /// `sid`.
    pub sid: Option<Fingerprint>,
    /// `iat`; 1970 without one, so that every revocation of the user means the token.
    pub issued_at: WallTime,
    /// A number for `iss`; 0 without one.
    pub issuer: u32,
    /// The key that has verified it. When the key is no longer in use, the token is revoked.
    pub key: Option<KeyNumber>,
}

impl TokenIdentity {
    /// Creates the identity of a token with these claims.
    pub fn new(ids: &TokenIds, issued_at: Option<WallTime>) -> Self {
        let of_kind =
            |kind, id: &Option<String>| id.as_deref().filter(|id| !id.is_empty()).map(|id| fingerprint(kind, id, ""));
        Self {
            jti: of_kind(TOKEN, &ids.jti),
            sid: of_kind(SESSION, &ids.sid),
            issued_at: issued_at.unwrap_or_default(),
            issuer: issuer_number(ids.issuer.as_deref().unwrap_or_default()),
            key: None,
        }
    }

    /// Returns whether the token says when it was issued.
    pub fn issue_times(&self) -> IssueTimes {
        if self.issued_at == WallTime::default() { IssueTimes::Unknown } else { IssueTimes::Known }
    }

    /// Returns the fingerprints of `jti` and `sid`.
    pub fn ids(&self) -> impl Iterator<Item = Fingerprint> + use<> {
        [self.jti, self.sid].into_iter().flatten()
    }
}

/// The issuers whose tokens a revocation means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum IssuerScope {
    /// All.
    #[default]
    Any,
    /// The one with this `iss`. Empty: tokens without `iss`.
    Only(String),
}

impl IssuerScope {
    /// Creates the scope that a caller of the server API means: empty or missing text means all issuers.
    pub fn of_request(issuer: Option<String>) -> Self {
        issuer.filter(|issuer| !issuer.is_empty()).map_or(Self::Any, Self::Only)
    }

    /// Returns the `iss`, if only tokens of one issuer are meant.
    pub fn issuer(&self) -> Option<&str> {
        match self {
            Self::Any => None,
            Self::Only(issuer) => Some(issuer),
        }
    }
}
