//! Why a session receives a channel, and what else is known of its subscription. Plain data: the session decides, the hub
//! keeps it.

use bytes::Bytes;

use crate::clock::{Millis, NEVER};

/// Why a session receives a channel. Most are of the first kind and hold nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SubscriptionSource {
    /// It asked, and its claims or the channel's options allow it.
    #[default]
    Client,
    /// It asked with a subscription token.
    SubscriptionToken(Box<SubscriptionTerms>),
    /// Its token brings the channel.
    ConnectionToken(Box<SubscriptionTerms>),
    /// The server API has brought it: it stays whatever newer tokens say, until the API takes it or its time is over.
    ServerApi(Box<SubscriptionTerms>),
}

/// What comes with a token, or an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionTerms {
    /// When the subscription ends by itself.
    pub expires_at: Millis,
    /// Raw JSON that others see of it.
    pub info: Option<Bytes>,
}

impl SubscriptionSource {
    fn terms(&self) -> Option<&SubscriptionTerms> {
        match self {
            Self::Client => None,
            Self::SubscriptionToken(terms) | Self::ConnectionToken(terms) | Self::ServerApi(terms) => Some(terms),
        }
    }

    /// When the subscription ends by itself.
    pub(super) fn expires_at(&self) -> Millis {
        self.terms().map_or(NEVER, |terms| terms.expires_at)
    }

    /// Raw JSON that others see of the subscription.
    pub fn info(&self) -> Option<&Bytes> {
        self.terms().and_then(|terms| terms.info.as_ref())
    }

    /// Whether the client has not asked for it.
    pub fn is_server_side(&self) -> bool {
        matches!(self, Self::ConnectionToken(_) | Self::ServerApi(_))
    }
}
