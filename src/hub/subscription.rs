//! Why a session receives a channel, and what else is known of its subscription. Plain data: the session decides, the hub
//! keeps it.

use bytes::Bytes;

use crate::clock::{Millis, NEVER};

/// Why a session receives a channel. Most are of the first kind and hold nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Grant {
    /// It asked, and its claims or the channel's options allow it.
    #[default]
    Asked,
    /// It asked with a subscription token.
    Token(Box<Terms>),
    /// Its token brings the channel.
    Brought(Box<Terms>),
    /// The server API has brought it: it stays whatever newer tokens say, until the API takes it or its time is over.
    Given(Box<Terms>),
}

/// What comes with a token, or an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// When the subscription ends by itself.
    pub expires_at: Millis,
    /// Raw JSON that others see of it.
    pub info: Option<Bytes>,
}

impl Grant {
    fn terms(&self) -> Option<&Terms> {
        match self {
            Self::Asked => None,
            Self::Token(terms) | Self::Brought(terms) | Self::Given(terms) => Some(terms),
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
        matches!(self, Self::Brought(_) | Self::Given(_))
    }
}
