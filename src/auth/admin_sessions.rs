//! Sessions of the admin page. A session is a text that the hub has signed and the browser keeps in a cookie: who logged in, until
//! when, and an id by which a logout revokes it. So every node accepts it, and no number of sessions costs a node memory. Sessions are signed
//! with a key that is derived from the API key.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use aws_lc_rs::hmac::{Key, sign, verify};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq;

use super::{derived_key::derive_key, users::Users};
use crate::{
    clock::{Clock, NEVER, WallTime},
    config::{ApiConfig, Config, Secret},
    revocation::{IssuerScope, Revocation, RevocationTarget, Revocations, TokenIdentity, TokenIds},
};

/// The issuer under which admin sessions are revoked. No token has it: it is no `iss` of a provider.
const ISSUER: &str = "wardcast:admin";
/// Random bytes of the id of a session.
const ID_BYTES: usize = 16;
/// Bytes of the name of a key.
const NAME_BYTES: usize = 6;
/// Maximum length of the text of a session. That of the longest user name is shorter.
const MAX_TEXT_BYTES: usize = 512;

/// The admin who has logged in to the admin page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admin {
    /// A caller with the API key.
    ApiKey,
    /// A user of `admin.users_file`.
    User {
        /// The name in the file.
        name: String,
        /// Names the password with which the session began ([`super::users::User::password_name`]).
        password_name: String,
    },
}

impl Admin {
    /// Returns the name that the page shows.
    pub fn name(&self) -> &str {
        match self {
            Self::ApiKey => "API key",
            Self::User { name, .. } => name,
        }
    }

    /// Returns who has caused a call, as the audit log writes it.
    pub fn cause(&self) -> String {
        match self {
            Self::ApiKey => "admin".to_owned(),
            Self::User { name, .. } => format!("admin:{name}"),
        }
    }
}

/// A session of the admin page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminSession {
    /// Its id.
    pub id: String,
    /// Who has it.
    pub admin: Admin,
    /// When it ends.
    pub expires_at: WallTime,
}

impl AdminSession {
    /// Returns the revocation by which a logout ends it on all nodes.
    pub fn revocation(&self) -> Revocation {
        let target = RevocationTarget::Session(self.id.clone(), IssuerScope::Only(ISSUER.to_owned()));
        Revocation { target, issued_before: NEVER, expires_at: self.expires_at }
    }

    /// Returns what is signed. No part but the last can contain a dot.
    fn payload(&self) -> String {
        let (name, password) = match &self.admin {
            Admin::ApiKey => ("", ""),
            Admin::User { name, password_name } => (name.as_str(), password_name.as_str()),
        };
        let name = BASE64_URL_SAFE_NO_PAD.encode(name);
        format!("{}.{}.{password}.{name}", self.expires_at.unix_seconds(), self.id)
    }

    fn parse(payload: &str) -> Option<Self> {
        let mut parts = payload.split('.');
        let mut next = || parts.next();
        let (end, id, password, name) = (next()?, next()?, next()?, next()?);
        let name = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(name).ok()?).ok()?;
        let admin = match (password, name.as_str()) {
            ("", "") => Admin::ApiKey,
            _ => Admin::User { name, password_name: password.to_owned() },
        };
        Some(Self { id: id.to_owned(), admin, expires_at: WallTime::from_unix_seconds(end.parse().ok()?) })
    }
}

/// A key of the server API, with what is derived from it for sessions. All nodes have the same keys.
struct SessionKey {
    api_key: Secret,
    /// Signs sessions.
    signing: Key,
    /// The name of the key in the names of cookies, so that the sessions of several hubs on one host are in cookies of their own.
    name: String,
}

impl SessionKey {
    fn new(api_key: &Secret) -> Self {
        let signing = derive_key(api_key, "wardcast admin sessions");
        let name = sign(&signing, b"name of the cookie");
        let name = BASE64_URL_SAFE_NO_PAD.encode(&name.as_ref()[..NAME_BYTES]);
        Self { api_key: api_key.clone(), signing, name }
    }

    fn all(config: &ApiConfig) -> Vec<Arc<Self>> {
        config.keys().map(|key| Arc::new(Self::new(key))).collect()
    }
}

/// An admin whose password or API key was right.
pub struct VerifiedAdmin {
    admin: Admin,
    /// Signs the session, which ends when this key is removed.
    key: Arc<SessionKey>,
}

/// A session that has begun, and its cookie.
pub struct IssuedSession {
    /// The session.
    pub session: AdminSession,
    /// The value of the cookie.
    pub text: String,
    /// The name of the key that has signed it, for the name of the cookie.
    pub key_name: String,
}

/// The admins who may log in to the admin page, and the check of their sessions.
pub struct AdminSessions {
    /// Those of `api.key` and `api.previous_key`. The sessions of a removed one end.
    keys: ArcSwap<Vec<Arc<SessionKey>>>,
    users: Option<Arc<Users>>,
    lifetime: Duration,
    revocations: Arc<Revocations>,
    clock: Clock,
}

impl AdminSessions {
    /// Creates the sessions of a configuration with an API key; `None` if the page is off. `users`: those of `admin.users_file`.
    pub fn new(
        config: &Config,
        users: Option<Arc<Users>>,
        revocations: Arc<Revocations>,
        clock: Clock,
    ) -> Option<Arc<Self>> {
        let is_enabled = config.admin.enabled && !config.api.key.is_empty();
        is_enabled.then(|| {
            let keys = ArcSwap::from_pointee(SessionKey::all(&config.api));
            Arc::new(Self { keys, users, lifetime: config.admin.session_ttl, revocations, clock })
        })
    }

    /// Replaces the keys of the server API by those of a reloaded configuration.
    pub fn replace_keys(&self, config: &ApiConfig) {
        self.keys.store(Arc::new(SessionKey::all(config)));
    }

    /// Returns the names of the keys, as cookies have them.
    pub fn key_names(&self) -> Vec<String> {
        self.keys.load().iter().map(|key| key.name.clone()).collect()
    }

    /// Returns the users who may log in, besides the API key.
    pub fn users(&self) -> Option<&Arc<Users>> {
        self.users.as_ref()
    }

    /// Returns who has this password. Takes as long for an unknown user as for a wrong password.
    pub fn check_password(&self, name: &str, password: &str) -> Option<VerifiedAdmin> {
        let user = self.users.as_ref()?.verify(name, password)?;
        let admin = Admin::User { name: user.sub.clone(), password_name: user.password_name.clone() };
        Some(VerifiedAdmin { admin, key: self.keys.load().first()?.clone() })
    }

    /// Returns whether this is an API key. In constant time; the length of a random key is no secret.
    pub fn check_api_key(&self, sent: &str) -> Option<VerifiedAdmin> {
        let keys = self.keys.load();
        // All of them are compared, whichever is the right one.
        let is_sent = |key: &SessionKey| bool::from(sent.as_bytes().ct_eq(key.api_key.expose().as_bytes()));
        let found = keys.iter().fold(None, |found, key| if is_sent(key) { Some(key) } else { found })?;
        Some(VerifiedAdmin { admin: Admin::ApiKey, key: found.clone() })
    }

    /// Begins a session; `None` if the system has no randomness.
    pub fn begin(&self, VerifiedAdmin { admin, key }: VerifiedAdmin) -> Option<IssuedSession> {
        let mut random = [0; ID_BYTES];
        getrandom::fill(&mut random).ok()?;
        // Whole seconds, as the text has them.
        let end = self.clock.now().saturating_add(self.lifetime).unix_seconds();
        let expires_at = WallTime::from_unix_seconds(end);
        let session = AdminSession { id: BASE64_URL_SAFE_NO_PAD.encode(random), admin, expires_at };
        let payload = session.payload();
        let mac = BASE64_URL_SAFE_NO_PAD.encode(sign(&key.signing, payload.as_bytes()));
        Some(IssuedSession { session, text: format!("{payload}.{mac}"), key_name: key.name.clone() })
    }

    /// Returns the session in the cookie of a key, if it is valid now.
    pub fn decode(&self, key_name: &str, text: &str) -> Option<AdminSession> {
        let keys = self.keys.load();
        let key = keys.iter().find(|key| key.name == key_name)?;
        let (payload, mac) = text.rsplit_once('.').filter(|_| text.len() <= MAX_TEXT_BYTES)?;
        let mac = BASE64_URL_SAFE_NO_PAD.decode(mac).ok()?;
        verify(&key.signing, payload.as_bytes(), &mac).ok()?;
        AdminSession::parse(payload).filter(|session| self.is_valid(session))
    }

    /// Returns whether a session has neither expired nor ended by a logout, and its user has the same password as at the login.
    fn is_valid(&self, session: &AdminSession) -> bool {
        let has_password = match &session.admin {
            Admin::ApiKey => true,
            Admin::User { name, password_name } => {
                self.users.as_ref().is_some_and(|users| users.has_password(name, password_name))
            }
        };
        has_password && self.clock.now() < session.expires_at && !self.is_revoked(session)
    }

    fn is_revoked(&self, session: &AdminSession) -> bool {
        let ids = TokenIds { issuer: Some(ISSUER.to_owned()), sid: Some(session.id.clone()), jti: None };
        // An admin is no user of tokens, whose names may be the same.
        self.revocations.is_revoked("", &TokenIdentity::new(&ids, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(key: &str, previous: &str) -> Config {
        let mut config = Config::default();
        config.admin.enabled = true;
        (config.api.key, config.api.previous_key) = (Secret::new(key), Secret::new(previous));
        config
    }

    fn sessions(key: &str) -> Arc<AdminSessions> {
        let (config, clock) = (config(key, ""), Clock::default());
        let revocations = Revocations::new(&config, clock.clone(), Arc::default());
        AdminSessions::new(&config, None, revocations, clock).unwrap()
    }

    fn begin(sessions: &AdminSessions, key: &str) -> IssuedSession {
        sessions.begin(sessions.check_api_key(key).unwrap()).unwrap()
    }

    #[test]
    fn session_is_accepted_by_every_node_with_the_same_key_and_unchanged_only() {
        let (one, two, other) = (sessions("key of both"), sessions("key of both"), sessions("another key"));
        let IssuedSession { session, text, key_name } = begin(&one, "key of both");
        assert_eq!(two.decode(&key_name, &text).as_ref(), Some(&session));
        assert_eq!(other.decode(&key_name, &text), None);
        assert_eq!(other.decode(&other.key_names()[0], &text), None);
        for at in 0..text.len() {
            let mut forged = text.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(one.decode(&key_name, std::str::from_utf8(&forged).unwrap()), None, "{at}");
        }
        for forged in ["", ".", "....", &text[1..], &format!("{text}A"), &"A".repeat(600)] {
            assert_eq!(one.decode(&key_name, forged), None, "{forged}");
        }
    }

    #[test]
    fn sessions_of_the_previous_key_last_until_it_is_removed() {
        let sessions = sessions("old");
        let of_old = begin(&sessions, "old");
        sessions.replace_keys(&config("new", "old").api);
        let (again, of_new) = (begin(&sessions, "old"), begin(&sessions, "new"));
        assert_eq!((&of_old.key_name, &again.key_name), (&sessions.key_names()[1], &sessions.key_names()[1]));
        assert_eq!(of_new.key_name, sessions.key_names()[0]);
        let decode = |issued: &IssuedSession| sessions.decode(&issued.key_name, &issued.text).is_some();
        assert!([&of_old, &again, &of_new].into_iter().all(decode));
        sessions.replace_keys(&config("new", "").api);
        assert_eq!([&of_old, &again, &of_new].map(decode), [false, false, true]);
        assert!(sessions.check_api_key("old").is_none() && sessions.check_api_key("").is_none());
    }

    #[test]
    fn revoked_session_is_refused_and_no_other() {
        let sessions = sessions("key");
        let [one, other] = [(), ()].map(|()| begin(&sessions, "key").session);
        sessions.revocations.add([one.revocation()]).unwrap();
        assert!(!sessions.is_valid(&one) && sessions.is_valid(&other));
    }

    #[test]
    fn without_users_a_session_of_a_user_is_refused() {
        let sessions = sessions("key");
        let admin = Admin::User { name: "ann".to_owned(), password_name: "p".to_owned() };
        let key = sessions.keys.load()[0].clone();
        let IssuedSession { session, text, key_name } = sessions.begin(VerifiedAdmin { admin, key }).unwrap();
        assert_eq!(AdminSession::parse(&session.payload()).as_ref(), Some(&session));
        assert_eq!(sessions.decode(&key_name, &text), None);
    }
}
