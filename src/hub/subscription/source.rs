//! The source of a subscription: why a session is subscribed to a channel, and on which terms. Plain data: the session decides
//! it, the hub keeps it.

use bytes::Bytes;

use crate::{
    clock::{NEVER, WallTime},
    revocation::TokenIdentity,
};

/// Why a session is subscribed to a channel. Nearly all subscriptions are of the first kind, which holds nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SubscriptionSource {
    /// The client asked, and its claims or the channel's options allow it.
    #[default]
    Client,
    /// The client asked with a subscription token.
    SubscriptionToken(Box<SubscriptionTerms>),
    /// The subscribe hook of the backend allows it, whatever newer tokens of the session say.
    Hook(Box<HookTerms>),
    /// Server-side: the session's own token names the channel.
    ConnectionToken(Box<SubscriptionTerms>),
    /// Server-side: the configuration subscribes each session of the user (`subscribe_to_personal`).
    Personal,
    /// Server-side: the client asked for it in `connect`, where an earlier connection had it, and its claims or the channel's
    /// options allow it.
    Restored,
    /// Server-side: the server API subscribed the session. It lasts whatever newer tokens say, until the API ends it or it
    /// expires.
    ServerApi(Box<SubscriptionTerms>),
}

/// The terms of a token or of a server API control.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionTerms {
    /// When the subscription expires.
    pub expires_at: WallTime,
    /// When the client is warned of that, or [`NEVER`].
    pub warn_at: WallTime,
    /// Raw JSON that other clients see of the subscription.
    pub info: Option<Bytes>,
    /// What names the subscription token; of no meaning without one.
    pub token: TokenIdentity,
}

/// The terms of a subscription that the subscribe hook allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookTerms {
    /// When the subscription expires.
    pub expires_at: WallTime,
    /// Raw JSON that other clients see of the subscription.
    pub info: Option<Bytes>,
    /// When the session is to ask the backend whether the subscription goes on; [`NEVER`] if there is nothing to ask, or the answer is
    /// awaited.
    pub renew_at: WallTime,
    /// Whether the session is subscribed without a command of the client.
    pub is_server_side: bool,
}

impl SubscriptionSource {
    fn terms(&self) -> Option<&SubscriptionTerms> {
        match self {
            Self::Client | Self::Hook(_) | Self::Personal | Self::Restored => None,
            Self::SubscriptionToken(terms) | Self::ConnectionToken(terms) | Self::ServerApi(terms) => Some(terms),
        }
    }

    /// Returns when the subscription expires.
    pub fn expires_at(&self) -> WallTime {
        match self {
            Self::Hook(terms) => terms.expires_at,
            _ => self.terms().map_or(NEVER, |terms| terms.expires_at),
        }
    }

    /// Returns when the session is to ask the backend whether the subscription goes on.
    pub fn renew_at(&self) -> WallTime {
        if let Self::Hook(terms) = self { terms.renew_at } else { NEVER }
    }

    /// Returns when the client is warned that the subscription expires, or [`NEVER`].
    pub fn warn_at(&self) -> WallTime {
        self.terms().map_or(NEVER, |terms| terms.warn_at)
    }

    /// Notes that the client is warned.
    pub(in crate::hub) fn note_warned(&mut self) {
        if let Self::SubscriptionToken(terms) = self {
            terms.warn_at = NEVER;
        }
    }

    /// Returns the raw JSON that other clients see of the subscription.
    pub fn info(&self) -> Option<&Bytes> {
        match self {
            Self::Hook(terms) => terms.info.as_ref(),
            _ => self.terms().and_then(|terms| terms.info.as_ref()),
        }
    }

    /// Returns what names the subscription token. Other subscriptions belong to the token of their session.
    pub fn token(&self) -> Option<&TokenIdentity> {
        match self {
            Self::SubscriptionToken(terms) => Some(&terms.token),
            Self::Client
            | Self::Hook(_)
            | Self::ConnectionToken(_)
            | Self::Personal
            | Self::Restored
            | Self::ServerApi(_) => None,
        }
    }

    /// Returns whether the session is subscribed without the client having asked.
    pub fn is_server_side(&self) -> bool {
        match self {
            Self::Client | Self::SubscriptionToken(_) => false,
            Self::Hook(terms) => terms.is_server_side,
            Self::ConnectionToken(_) | Self::Personal | Self::Restored | Self::ServerApi(_) => true,
        }
    }
}
