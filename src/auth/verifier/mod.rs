//! Verifies tokens: form, header and signature by RFC 7515 and RFC 8725, then the claims. The key decides the algorithm, never
//! the header of the token. Pure but for the keys: construction and reloads read their files, and [`KeySets`] fetches others.

mod header;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use jsonwebtoken::Algorithm;

pub(super) use self::header::HEADER_MEMBERS;
use self::header::{JoseHeader, TokenParts, decode_part};
use super::{
    Permissions, TokenError,
    claims::{Claims, SubscriptionClaims},
    key::{KeyChange, KeyError, KeyRing, VerificationKey, VerificationKeys, shared_secrets},
    key_sets::KeySets,
    logout_token::{LogoutExpectations, LogoutToken},
    payload::{Expectations, Payload, unverified_issuer, unverified_subject},
    users::Users,
};
use crate::{
    clock::{Clock, NEVER, WallTime},
    config::{self, Config, KeyRules, TokenKind, UserPrefixes},
    publication::is_valid_user,
    revocation::{LoginId, TokenIdentity, TokenIds, user_tag},
};

/// Verifies tokens against the configured keys, issuer, audience, namespaces and the clock.
pub struct Verifier {
    keys: Arc<KeyRing>,
    key_sets: Arc<KeySets>,
    /// Of the start: what is used of it changes with a restart only.
    auth: config::AuthConfig,
    permissions: Arc<Permissions>,
    /// `limits.channels_per_session`.
    max_subscriptions: AtomicUsize,
    /// `limits.token_bytes`: how much an unauthenticated client can make the hub decode.
    max_token_bytes: usize,
    prefixes: ArcSwap<UserPrefixes>,
    /// Set if `login.users_file` is.
    login_users: OnceLock<LoginUsers>,
    clock: Clock,
}

/// By how much an instance may read a new users file later than another one, beside `login.users_file_interval`: files that are
/// distributed to several machines arrive one after the other.
const MAX_USERS_FILE_LAG: Duration = Duration::from_secs(60);

/// The users of the login.
struct LoginUsers {
    users: Arc<Users>,
    /// How long after its login a user may be missing because this instance has not read the file again.
    max_lag: Duration,
}

/// The claims of a token that is to be revoked.
#[derive(Clone, Debug)]
pub struct LogoutClaims {
    /// Its claims.
    pub claims: Claims,
    /// Those of them by which it can be revoked.
    pub ids: TokenIds,
    /// Whether a revocation means it already.
    pub is_revoked: bool,
    /// Whether it has expired. The server API may have given its session a later end.
    pub is_expired: bool,
}

impl Verifier {
    /// Creates a verifier for the tokens that `[auth]` describes, and for those that the login signs with `login.key`. Reads
    /// the key files.
    ///
    /// # Errors
    /// [`KeyError`] for a key that is unreadable, weak, not for its algorithm, or configured twice.
    pub fn new(config: &Config, permissions: Arc<Permissions>, clock: Clock) -> Result<Self, KeyError> {
        let (key_sets, keys) = KeySets::read(config, permissions.revocations().cloned())?;
        Ok(Self {
            keys,
            key_sets: Arc::new(key_sets),
            auth: config.auth.clone(),
            permissions,
            max_subscriptions: AtomicUsize::new(config.limits.channels_per_session),
            max_token_bytes: config.limits.token_bytes,
            prefixes: ArcSwap::from_pointee(UserPrefixes::new(&config.auth)),
            login_users: OnceLock::new(),
            clock,
        })
    }

    /// Returns every error for which [`Self::new`] would fail.
    pub fn key_errors(config: &Config) -> Vec<KeyError> {
        let errors = VerificationKeys::errors(&config.auth, &config.login.key);
        if errors.is_empty() { KeySets::read(config, None).err().into_iter().collect() } else { errors }
    }

    /// Returns the sets of keys that have to be fetched.
    pub fn key_sets(&self) -> &Arc<KeySets> {
        &self.key_sets
    }

    /// Reads the key files again.
    ///
    /// # Errors
    /// [`KeyError`]. The old keys stay in force.
    pub fn reload_key_files(&self) -> Result<KeyChange, KeyError> {
        self.keys.reload_files()
    }

    /// Replaces the keys by those of another configuration, and the prefixes of their users. Sets that are new begin to be fetched in
    /// the current actix system.
    ///
    /// # Errors
    /// [`KeyError`]. Nothing has changed then.
    pub fn replace_keys(&self, config: &Config) -> Result<KeyChange, KeyError> {
        let change = self.key_sets.replace(config)?;
        let prefixes = UserPrefixes::new(&config.auth);
        if **self.prefixes.load() != prefixes {
            self.prefixes.store(Arc::new(prefixes.clone()));
            // Last: from then on no user is accepted of a key that is another key's.
            if let Some(revocations) = self.permissions.revocations() {
                revocations.set_user_prefixes(prefixes);
            }
        }
        Ok(change)
    }

    /// Has tokens of the login refused whose user is not in its file any more. Called once.
    pub fn set_login_users(&self, users: Arc<Users>, config: &Config) {
        let max_lag = MAX_USERS_FILE_LAG + config.login.users_file_interval;
        _ = self.login_users.set(LoginUsers { users, max_lag });
    }

    /// Changes how many channels a token may name (`limits.channels_per_session`).
    pub fn set_max_subscriptions(&self, max_subscriptions: usize) {
        self.max_subscriptions.store(max_subscriptions, Ordering::Relaxed);
    }

    /// Returns when the key that has verified a token stops doing so; [`NEVER`] without one, and for a key that has been removed: it
    /// ends its sessions by itself.
    pub fn key_end(&self, token: &TokenIdentity) -> WallTime {
        token.key.and_then(|key| self.keys.not_after(key)).unwrap_or(NEVER)
    }

    /// Returns an error for each secret of the configuration that has several uses.
    pub fn shared_secrets(config: &Config) -> Vec<KeyError> {
        shared_secrets(config)
    }

    /// Returns the claims of a valid connection token. They expire with the token, or at `not_after` of its key if that is
    /// earlier: a key gets an end because someone else may have it.
    ///
    /// # Errors
    /// [`TokenError`]. With a wrong signature, nothing in the payload is reported.
    pub fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        let (key, payload) = self.verify_signature(token, TokenKind::Connection)?;
        let claims = self.unrevoked_claims(&key, &payload, self.clock.now())?;
        if self.permissions.is_revoked(&claims.user, &claims.token) {
            return Err(TokenError::Revoked);
        }
        self.require_login_user(&claims, token)?;
        self.require_revocations()?;
        Ok(Claims { expires_at: claims.expires_at.min(key.not_after), ..claims })
    }

    /// Checks that the users file has the user of a token, if it is one of the login. No instance may have looked when the user was removed:
    /// then nothing has revoked the token.
    fn require_login_user(&self, claims: &Claims, token: &str) -> Result<(), TokenError> {
        let Some(LoginUsers { users, max_lag }) = self.login_users.get() else { return Ok(()) };
        let Claims { user, token: identity, .. } = claims;
        if identity.sid.is_none() || users.find(user).is_some() {
            return Ok(());
        }
        let login = self.ids_of(token).sid.as_deref().and_then(LoginId::parse);
        if login.is_none_or(|login| login.split().0 != user_tag(user)) {
            return Ok(());
        }
        // The instance of the login may have read a newer file.
        let is_new = self.clock.now() < identity.issued_at.saturating_add(*max_lag);
        Err(if is_new { TokenError::LoginUserPending } else { TokenError::UnknownLoginUser })
    }

    /// Returns the claims of a connection token with this payload that is valid at a time if it is not revoked.
    fn unrevoked_claims(&self, key: &VerificationKey, payload: &[u8], at: WallTime) -> Result<Claims, TokenError> {
        let prefixes = self.prefixes.load();
        let expected = Expectations { now: at, ..self.expectations(&key.rules, &prefixes) };
        let mut claims = Payload::parse(payload)?.into_claims(&expected)?;
        claims.token.key = Some(key.number);
        Ok(claims)
    }

    /// Checks that this instance knows which tokens are revoked.
    fn require_revocations(&self) -> Result<(), TokenError> {
        let is_loaded = self.permissions.revocations().is_none_or(|revocations| revocations.is_loaded());
        is_loaded.then_some(()).ok_or(TokenError::RevocationsPending)
    }

    /// Returns the claims of a valid connection token, and the claims by which it can be revoked.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub fn verify_with_ids(&self, token: &str) -> Result<(Claims, TokenIds), TokenError> {
        Ok((self.verify(token)?, self.ids_of(token)))
    }

    /// Returns the claims of a connection token that is to be revoked, also if it has expired or is revoked already, unless that is because of
    /// its key. They expire with the token: a reload may move the end of its key, and the token must not be valid again then. One that has
    /// expired was valid until then.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub fn verify_for_logout(&self, token: &str) -> Result<LogoutClaims, TokenError> {
        let (key, payload) = self.verify_signature(token, TokenKind::Connection)?;
        let (now, expires_at) = (self.clock.now(), Payload::parse(&payload)?.expires_at());
        let is_expired = expires_at <= now;
        let before_expiry = WallTime::from_unix_millis(expires_at.unix_millis().saturating_sub(1));
        let claims = self.unrevoked_claims(&key, &payload, now.min(before_expiry))?;
        if self.permissions.has_revoked_key(&claims.user, &claims.token) {
            return Err(TokenError::Revoked);
        }
        let is_revoked = self.permissions.is_revoked(&claims.user, &claims.token);
        Ok(LogoutClaims { claims, ids: self.ids_of(token), is_revoked, is_expired })
    }

    /// Returns the claims by which a token can be revoked. Verifies nothing.
    pub fn ids_of(&self, token: &str) -> TokenIds {
        let payload = TokenParts::split(token).and_then(|parts| decode_part(parts.payload).ok());
        let ids = payload.and_then(|payload| Some(Payload::parse(&payload).ok()?.take_ids()));
        ids.unwrap_or_default()
    }

    /// Returns the user whom a refused token names. Verifies nothing: only for explanations.
    pub fn user_of_refused(&self, token: &str) -> Option<Box<str>> {
        if token.len() > self.max_token_bytes {
            return None;
        }
        let parts = TokenParts::split(token)?;
        let payload = decode_part(parts.payload).ok()?;
        let kid = decode_part(parts.header).and_then(|header| JoseHeader::parse(&header)).ok()?.kid;
        let keys = self.keys.current();
        let key = keys.select(kid.as_deref(), || unverified_issuer(&payload));
        let prefix = key.map_or_else(|| self.auth.rules(None).user_prefix, |key| key.rules.user_prefix.clone());
        let user = format!("{prefix}{}", unverified_subject(&payload).filter(|subject| !subject.is_empty())?);
        is_valid_user(&user).then(|| user.into())
    }

    /// Returns the claims of a valid subscription token. The caller checks that they are for the right channel and user.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn verify_subscription(&self, token: &str) -> Result<SubscriptionClaims, TokenError> {
        let (key, payload) = self.verify_signature(token, TokenKind::Subscription)?;
        let prefixes = self.prefixes.load();
        let expected = self.expectations(&key.rules, &prefixes);
        let mut claims = Payload::parse(&payload)?.into_subscription_claims(&expected)?;
        claims.token.key = Some(key.number);
        let SubscriptionClaims { user, channel, token, .. } = &claims;
        if self.permissions.is_revoked(user, token) || self.permissions.is_revoked_in(user, channel, token) {
            return Err(TokenError::Revoked);
        }
        self.require_revocations()?;
        Ok(SubscriptionClaims { expires_at: claims.expires_at.min(key.not_after), ..claims })
    }

    /// Returns what a valid logout token says that was not used before.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn verify_logout(&self, token: &str) -> Result<LogoutToken, TokenError> {
        let (key, payload) = self.verify_signature(token, TokenKind::Logout)?;
        let prefixes = self.prefixes.load();
        let expected = LogoutExpectations {
            now: self.clock.now(),
            max_ttl: self.auth.max_ttl,
            clock_skew: self.auth.clock_skew,
            rules: &key.rules,
            prefixes: &prefixes,
        };
        let token = LogoutToken::read(&payload, &expected)?;
        if self.permissions.is_revoked("", &token.identity()) {
            return Err(TokenError::UsedLogoutToken);
        }
        Ok(token)
    }

    /// Returns what [`Self::verify`] would return for this payload with a valid signature. For fuzzing only: **nothing proves
    /// the origin of the payload**.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn claims_of_unsigned(&self, payload: &[u8]) -> Result<Claims, TokenError> {
        Payload::parse(payload)?.into_claims(&self.expectations(&self.auth.rules(None), &self.prefixes.load()))
    }

    /// Returns the decoded payload, whose claims are not yet checked, and the key that verified its signature.
    fn verify_signature(&self, token: &str, kind: TokenKind) -> Result<(Arc<VerificationKey>, Vec<u8>), TokenError> {
        if token.len() > self.max_token_bytes {
            return Err(TokenError::TooLong(self.max_token_bytes));
        }
        let parts = TokenParts::split(token).ok_or(TokenError::NotThreeParts)?;
        let header = JoseHeader::parse(&decode_part(parts.header)?)?;
        // Before the key: an algorithm that no key has makes no provider be asked for one.
        let algorithm = header.alg.parse::<Algorithm>().map_err(|_| TokenError::WrongAlgorithm)?;
        let unverified_issuer = || decode_part(parts.payload).ok().and_then(|payload| unverified_issuer(&payload));
        let (kid, keys) = (header.kid.as_deref(), self.keys.current());
        let key = keys.select(kid, unverified_issuer);
        let verified = key.ok_or(TokenError::UnknownKey).and_then(|key| {
            self.check_key(key, &header, algorithm, &parts, kind)?;
            Ok((key.clone(), decode_part(parts.payload)?))
        });
        verified.map_err(|error| {
            let (issuer, tried) = (unverified_issuer(), key.map(|key| key.number));
            let is_key_of_issuer = key.is_some_and(|key| key.rules.issuer.is_some() && key.rules.issuer == issuer);
            let may_come = || self.key_sets.may_bring(kid, issuer.as_deref(), algorithm, tried);
            if !is_key_of_issuer && may_come() { TokenError::KeyPending } else { error }
        })
    }

    /// Checks that a key verifies the signature of a token, and that the token is of a kind that the key may sign.
    fn check_key(
        &self,
        key: &VerificationKey,
        header: &JoseHeader,
        algorithm: Algorithm,
        parts: &TokenParts<'_>,
        kind: TokenKind,
    ) -> Result<(), TokenError> {
        if algorithm != key.algorithm {
            return Err(TokenError::WrongAlgorithm);
        }
        if !key.rules.purpose.includes(kind) {
            return Err(TokenError::WrongKeyPurpose);
        }
        let is_of_kind = match key.rules.of_kind(kind) {
            Some(rules) => header.is_of_type(rules.typ.as_deref()),
            None => header.is_of_logout_type(),
        };
        if !is_of_kind {
            return Err(TokenError::WrongType);
        }
        if self.clock.now() >= key.not_after {
            return Err(TokenError::KeyExpired);
        }
        let message = parts.message.as_bytes();
        match jsonwebtoken::crypto::verify(parts.signature, message, &key.material, key.algorithm) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(TokenError::WrongSignature),
        }
    }

    fn expectations<'a>(&'a self, rules: &'a KeyRules, prefixes: &'a UserPrefixes) -> Expectations<'a> {
        Expectations {
            now: self.clock.now(),
            auth: &self.auth,
            rules,
            prefixes,
            permissions: &self.permissions,
            max_subscriptions: self.max_subscriptions.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests;
