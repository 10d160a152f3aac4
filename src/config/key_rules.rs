//! The rules for the tokens of a key, from `[auth]` and the key's entry in `auth.keys` together: what they must contain, and
//! whose tokens they are.

use std::path::Path;

use super::{AuthConfig, KeyConfig, KeyPurpose, KeySource, url_without_secrets};

/// The kind of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// It opens connections.
    Connection,
    /// It permits one subscription: it has the claim `channel`.
    Subscription,
    /// It ends the sessions of a user of an identity provider (OpenID Connect Back-Channel Logout 1.0 §2.4).
    Logout,
}

/// The rules that the tokens of a key must meet. A setting of the key overrides that of `[auth]`, and one for subscription tokens that
/// for both kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRules {
    /// `iss`.
    pub issuer: Option<String>,
    /// Precedes `sub` in the name of the user.
    pub user_prefix: String,
    /// Whether the key is from a JWK set, as identity providers publish them. Without a configured audience, its tokens must
    /// have no `aud`: they are for other applications.
    pub is_of_key_set: bool,
    /// The applications whose tokens are accepted, in `azp` or `client_id`. Empty: any.
    pub clients: Vec<String>,
    /// The kinds of tokens that the key verifies.
    pub purpose: KeyPurpose,
    /// For connection tokens.
    pub connection: KindRules,
    /// For subscription tokens.
    pub subscription: KindRules,
}

/// The rules that tokens of one kind must meet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KindRules {
    /// An entry of `aud`.
    pub audience: Option<String>,
    /// The header `typ`.
    pub typ: Option<String>,
}

impl KeyRules {
    /// Returns the rules for a kind of token; `None` for logout tokens, which have no configuration.
    pub fn of_kind(&self, kind: TokenKind) -> Option<&KindRules> {
        match kind {
            TokenKind::Connection => Some(&self.connection),
            TokenKind::Subscription => Some(&self.subscription),
            TokenKind::Logout => None,
        }
    }

    /// Returns whether `aud` may name this application in a logout token: providers put the id of the client into it whose logout
    /// URL leads here. That is one of `clients`, or the audience of connection tokens.
    pub fn is_application(&self, name: &str) -> bool {
        self.connection.audience.as_deref() == Some(name) || self.clients.iter().any(|client| client == name)
    }
}

impl KeyPurpose {
    /// Returns whether a key with this purpose verifies tokens of this kind. Who opens connections may end them.
    pub fn includes(self, kind: TokenKind) -> bool {
        match self {
            Self::Any => true,
            Self::Connection => matches!(kind, TokenKind::Connection | TokenKind::Logout),
            Self::Subscription => kind == TokenKind::Subscription,
        }
    }
}

/// The issuer of tokens, as far as the configuration names it. A `sub` names a user of one issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenIssuer<'a> {
    /// The operator's own backend, and the login: without a configured issuer.
    Own,
    /// A configured issuer.
    Named(&'a str),
    /// The provider of a JWK set without a configured issuer: its file or URL.
    KeySet(&'a Path),
}

impl AuthConfig {
    /// Returns the rules of a key of `auth.keys`, or with `None` those of `auth.hmac_secret` and `login.key`.
    pub fn rules(&self, key: Option<&KeyConfig>) -> KeyRules {
        let own = |setting: fn(&KeyConfig) -> &Option<String>| key.and_then(|key| setting(key).clone());
        let audience = own(|key| &key.audience);
        let typ = own(|key| &key.typ);
        let subscription = KindRules {
            audience: own(|key| &key.subscription_audience)
                .or_else(|| audience.clone())
                .or_else(|| self.subscription_audience.clone())
                .or_else(|| self.audience.clone()),
            typ: own(|key| &key.subscription_typ)
                .or_else(|| typ.clone())
                .or_else(|| self.subscription_typ.clone())
                .or_else(|| self.typ.clone()),
        };
        KeyRules {
            issuer: key.map_or(&self.issuer, |key| self.issuer_name(key)).clone(),
            user_prefix: own(|key| &key.user_prefix).or_else(|| self.user_prefix.clone()).unwrap_or_default(),
            is_of_key_set: key.is_some_and(KeyConfig::is_set),
            clients: key.and_then(|key| key.clients.clone()).unwrap_or_else(|| self.clients.clone()),
            purpose: key.map(|key| key.purpose).unwrap_or_default(),
            connection: KindRules {
                audience: audience.or_else(|| self.audience.clone()),
                typ: typ.or_else(|| self.typ.clone()),
            },
            subscription,
        }
    }

    /// Returns whose tokens a key of `auth.keys` verifies, or with `None` those of `auth.hmac_secret` and `login.key`.
    pub fn issuer_of<'a>(&'a self, key: Option<&'a KeyConfig>) -> TokenIssuer<'a> {
        let named = key.map_or(&self.issuer, |key| self.issuer_name(key)).as_deref();
        let place = key.and_then(KeyConfig::source).and_then(KeySource::set_place);
        named.map_or_else(|| place.map_or(TokenIssuer::Own, TokenIssuer::KeySet), TokenIssuer::Named)
    }

    /// Returns the issuer of a key's tokens: its own, that of its discovery, or that of `[auth]`.
    fn issuer_name<'a>(&'a self, key: &'a KeyConfig) -> &'a Option<String> {
        [&key.issuer, &key.issuer_url].into_iter().find(|issuer| issuer.is_some()).unwrap_or(&self.issuer)
    }
}

impl std::fmt::Display for TokenIssuer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Own => f.write_str("the keys without an issuer"),
            Self::Named(issuer) => write!(f, "the issuer {issuer:?}"),
            Self::KeySet(place) => {
                let place = place.display().to_string();
                let is_url = place.starts_with("https://");
                let shown = if is_url { url_without_secrets(&place) } else { place };
                write!(f, "the JWK set {shown} without an issuer")
            }
        }
    }
}
