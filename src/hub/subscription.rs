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
}

/// What comes with a token.
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
            Self::Token(terms) | Self::Brought(terms) => Some(terms),
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

    /// Whether the session's token brings it.
    pub fn is_brought(&self) -> bool {
        matches!(self, Self::Brought(_))
    }
}
