//! Sessions of the admin page. A session is a text that the hub has signed and the browser keeps in a cookie: who logged in, until
//! when, and an id by which a logout revokes it. So every node accepts it, and no number of sessions costs a node memory.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::hmac::{Key, sign, verify};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq;

use super::{derived_key::derive_key, users::Users};
use crate::{
    clock::{Clock, NEVER, WallTime},
    config::{Config, Secret},
    revocation::{IssuerScope, Revocation, RevocationTarget, Revocations, TokenIdentity, TokenIds},
};

/// The issuer under which admin sessions are revoked. No token has it: it is no `iss` of a provider.
const ISSUER: &str = "wardcast:admin";
/// Random bytes of the id of a session.
const ID_BYTES: usize = 16;
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

/// The admins who may log in to the admin page, and the check of their sessions.
pub struct AdminSessions {
    /// Derived from the API key, which all nodes have: a new one ends all sessions.
    key: Key,
    api_key: Secret,
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
        let api_key = config.api.key.clone();
        let is_enabled = config.admin.enabled && !api_key.is_empty();
        is_enabled.then(|| {
            let key = derive_key(&api_key, "wardcast admin sessions");
            Arc::new(Self { key, api_key, users, lifetime: config.admin.session_ttl, revocations, clock })
        })
    }

    /// Returns the users who may log in, besides the API key.
    pub fn users(&self) -> Option<&Arc<Users>> {
        self.users.as_ref()
    }

    /// Returns who has this password. Takes as long for an unknown user as for a wrong password.
    pub fn check_password(&self, name: &str, password: &str) -> Option<Admin> {
        let user = self.users.as_ref()?.verify(name, password)?;
        Some(Admin::User { name: user.sub.clone(), password_name: user.password_name.clone() })
    }

    /// Returns whether this is the API key. In constant time; the length of a random key is no secret.
    pub fn check_api_key(&self, key: &str) -> Option<Admin> {
        bool::from(key.as_bytes().ct_eq(self.api_key.expose().as_bytes())).then_some(Admin::ApiKey)
    }

    /// Begins a session; `None` if the system has no randomness.
    pub fn begin(&self, admin: Admin) -> Option<AdminSession> {
        let mut random = [0; ID_BYTES];
        getrandom::fill(&mut random).ok()?;
        // Whole seconds, as the text has them.
        let end = self.clock.now().saturating_add(self.lifetime).unix_seconds();
        let expires_at = WallTime::from_unix_seconds(end);
        Some(AdminSession { id: BASE64_URL_SAFE_NO_PAD.encode(random), admin, expires_at })
    }

    /// Returns the text of a session, for the cookie.
    pub fn encode(&self, session: &AdminSession) -> String {
        let payload = session.payload();
        let mac = BASE64_URL_SAFE_NO_PAD.encode(sign(&self.key, payload.as_bytes()));
        format!("{payload}.{mac}")
    }

    /// Returns the session of a text, if it is valid now.
    pub fn decode(&self, text: &str) -> Option<AdminSession> {
        let (payload, mac) = text.rsplit_once('.').filter(|_| text.len() <= MAX_TEXT_BYTES)?;
        let mac = BASE64_URL_SAFE_NO_PAD.decode(mac).ok()?;
        verify(&self.key, payload.as_bytes(), &mac).ok()?;
        AdminSession::parse(payload).filter(|session| self.is_valid(session))
    }

    /// Returns whether a session has neither expired nor ended by a logout, and its user has the same password as at the login.
    pub fn is_valid(&self, session: &AdminSession) -> bool {
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

    fn sessions(key: &str) -> Arc<AdminSessions> {
        let mut config = Config::default();
        config.admin.enabled = true;
        config.api.key = Secret::new(key);
        let clock = Clock::default();
        let revocations = Revocations::new(&config, clock.clone(), Arc::default());
        AdminSessions::new(&config, None, revocations, clock).unwrap()
    }

    #[test]
    fn session_is_accepted_by_every_node_with_the_same_key_and_unchanged_only() {
        let (one, two, other) = (sessions("key of both"), sessions("key of both"), sessions("another key"));
        let session = one.begin(Admin::ApiKey).unwrap();
        let text = one.encode(&session);
        assert_eq!((two.decode(&text).as_ref(), other.decode(&text)), (Some(&session), None));
        for at in 0..text.len() {
            let mut forged = text.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(one.decode(std::str::from_utf8(&forged).unwrap()), None, "{at}");
        }
        for forged in ["", ".", "....", &text[1..], &format!("{text}A"), &"A".repeat(600)] {
            assert_eq!(one.decode(forged), None, "{forged}");
        }
    }

    #[test]
    fn revoked_session_is_refused_and_no_other() {
        let sessions = sessions("key");
        let [one, other] = [(), ()].map(|()| sessions.begin(Admin::ApiKey).unwrap());
        sessions.revocations.add([one.revocation()]).unwrap();
        assert!(!sessions.is_valid(&one) && sessions.is_valid(&other));
    }

    #[test]
    fn without_users_a_session_of_a_user_is_refused() {
        let sessions = sessions("key");
        let admin = Admin::User { name: "ann".to_owned(), password_name: "p".to_owned() };
        let session = sessions.begin(admin).unwrap();
        assert_eq!(AdminSession::parse(&session.payload()).as_ref(), Some(&session));
        assert_eq!(sessions.decode(&sessions.encode(&session)), None);
    }
}
