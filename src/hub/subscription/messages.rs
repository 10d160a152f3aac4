//! The messages of sessions to the hub about their subscriptions.

use actix::prelude::*;
use bytes::Bytes;

use super::{ReplyBuilder, Requested, Subscription, SubscriptionSource};
use crate::{
    broker::BrokerError,
    channel::Channel,
    clock::WallTime,
    hub::SessionKey,
    protocol::{ErrorCode, ExceededLimit, WireError},
};

/// Subscribes a session to channels: to all of them, or to none. The hub queues `reply` in the turn in which the
/// subscriptions become live, so that no publication overtakes it.
#[derive(Message)]
#[rtype(result = "Result<(), SubscribeError>")]
pub struct Subscribe {
    /// The session.
    pub key: SessionKey,
    /// One for each channel.
    pub subscriptions: Vec<Subscription<Requested>>,
    /// Builds the frame that says so, if there is one. Its outcomes are in the order of `subscriptions`.
    pub reply: Option<ReplyBuilder>,
}

/// Carries out requests of a session side by side. The hub queues their replies in the order of the requests, refusals among
/// them. Answers how many requests are finished, which is at least one: the others have had no effect, because the client has to
/// read the replies first, or too much was read of their histories to wait.
#[derive(Message)]
#[rtype(result = "FinishedRequests")]
pub struct SubscribeEach {
    /// The session.
    pub key: SessionKey,
    /// Requests for different channels.
    pub requests: Vec<SubscribeRequest>,
}

/// How many requests of [`SubscribeEach`] are finished, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FinishedRequests {
    /// The session has the subscription.
    pub succeeded: usize,
    /// The client got an error.
    pub refused: usize,
    /// The session is closing, so that the client got no reply.
    pub closed: usize,
}

impl FinishedRequests {
    /// Returns how many have finished in any way.
    pub fn total(self) -> usize {
        self.succeeded + self.refused + self.closed
    }

    pub(super) fn count<'a>(results: impl IntoIterator<Item = &'a Result<(), SubscribeError>>) -> Self {
        results.into_iter().fold(Self::default(), |mut counts, result| {
            match result {
                Ok(()) => counts.succeeded += 1,
                Err(SubscribeError::Closing) => counts.closed += 1,
                Err(_) => counts.refused += 1,
            }
            counts
        })
    }
}

/// One of several requests of a session.
pub struct SubscribeRequest {
    /// The subscription, or why the session may not have it: then the request is only answered, in its turn.
    pub subscription: Result<Subscription<Requested>, RefusedSubscribe>,
    /// Builds the reply.
    pub reply: ReplyBuilder,
    /// Builds the reply if the request fails.
    pub refusal: RefusalBuilder,
}

/// A subscribe command that its session has refused, and that waits for the requests before it.
pub struct RefusedSubscribe {
    /// Why it is refused.
    pub error: SubscribeError,
    /// The channel for which the refusal is noted, if it is noted.
    pub channel: Option<Channel>,
}

/// Returns the error that a client gets whose request has failed, and its frame; `None` if the client is not told.
pub type RefusalBuilder = Box<dyn FnOnce(&SubscribeError) -> Option<(WireError, Bytes)> + Send>;

/// Why a session is not subscribed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// The client asked for a channel to which its session is subscribed. A server-side subscription may exist already.
    #[error("{}", ErrorCode::AlreadySubscribed)]
    AlreadySubscribed,
    /// Over `limits.channels_per_session` or `limits.filter_nodes_per_channel`.
    #[error("{code}: {0}", code = ErrorCode::LimitExceeded)]
    LimitExceeded(#[from] ExceededLimit),
    /// The session is closing.
    #[error("session is closing")]
    Closing,
    /// What the client has missed cannot be recovered, and it asked for a subscription only with it.
    #[error("{}", ErrorCode::UnrecoverablePosition)]
    Unrecoverable,
    /// The subscription token expired before its subscription became live.
    #[error("{}", ErrorCode::TokenExpired)]
    TokenExpired,
    /// The session may not be subscribed.
    #[error("{}", .0.message())]
    Refused(WireError),
    /// The broker failed.
    #[error("{0}")]
    Broker(#[from] BrokerError),
}

/// Ends a subscription at its client's wish. Answers whether it existed.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct Unsubscribe {
    /// The session.
    pub key: SessionKey,
    /// The channel.
    pub channel: Channel,
}

/// Asks why a session is subscribed to a channel. Answers `None` if it is not, or not any more.
#[derive(Message)]
#[rtype(result = "Option<SubscriptionSource>")]
pub struct GetSubscription {
    /// The session.
    pub key: SessionKey,
    /// The channel.
    pub channel: Channel,
}

/// Gives a subscription the terms of a newer subscription token. Answers whether there is a subscription that such a token
/// may extend: one that the client asked for.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct ExtendSubscription {
    /// The session.
    pub key: SessionKey,
    /// The channel.
    pub channel: Channel,
    /// The source that replaces the old one.
    pub source: SubscriptionSource,
}

/// Ends a subscription for which its client has sent an expired subscription token (2501). Answers whether there is a
/// subscription that such a token may extend.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct ExpireSubscription {
    /// The session.
    pub key: SessionKey,
    /// The channel.
    pub channel: Channel,
}

/// Applies what the backend has said of a subscription that its hook has allowed, unless the subscription has ended or has other terms
/// meanwhile.
#[derive(Message)]
#[rtype(result = "()")]
pub struct RenewSubscription {
    /// The session.
    pub key: SessionKey,
    /// The channel.
    pub channel: Channel,
    /// When the subscription expired that the backend was asked about.
    pub asked: WallTime,
    /// What it has now.
    pub renewal: SubscriptionRenewal,
}

/// The result of the renewal of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubscriptionRenewal {
    /// It has these terms.
    Terms {
        /// When it expires.
        expires_at: WallTime,
        /// Raw JSON that replaces what other clients see of it.
        info: Option<Bytes>,
        /// When the backend is asked again.
        renew_at: WallTime,
    },
    /// It expires now.
    Expired,
}

/// Checks all subscriptions of a session against its new claims. Those that the claims do not allow are ended (2000).
#[derive(Message)]
#[rtype(result = "()")]
pub struct Reauthorize {
    /// The session.
    pub key: SessionKey,
    /// Returns whether the new claims allow a subscription.
    pub keep: KeepPredicate,
}

/// Returns whether a session keeps its subscription to a channel.
pub type KeepPredicate = Box<dyn Fn(&Channel, &SubscriptionSource) -> bool + Send>;
