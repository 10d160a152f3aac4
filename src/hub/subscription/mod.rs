//! A subscription of one session to one channel, from the request to its end: one type, [`Subscription`], whose parameter is
//! the stage that it is in. A request for several channels is a vector of it: all of them become live in one turn of the
//! hub, or none does. Requests for one channel each may be a group ([`SubscribeEach`]): they are carried out side by side.
//!
//! ```text
//! Requested ─▶ Resolving ─▶ CatchingUp ─▶ Ready ─▶ Live ─▶ Ended
//!     └───────────────────────────────────▲
//! ```
//!
//! - [`Requested`]: what a session asks for ([`messages`]). If the hub delivers the channel already and the client has missed
//!   nothing, the subscription is ready at once.
//! - [`Resolving`] ([`request`]): the broker is asked for the channel and, where publications may be missing, for its history
//!   ([`resolve`]). From here on deliveries of the channel are stored for it ([`catch_up`]).
//! - [`CatchingUp`]: the broker delivers the channel. History and stored deliveries are merged ([`recovery`]). If they do
//!   not meet, the history is read again.
//! - [`Ready`]: it is known where the subscription starts and what the client has missed ([`outcome`]).
//! - [`Live`]: the client has its reply ([`commit`]), and the registry delivers to it. Newer tokens may change it, until it
//!   ends ([`live`]).
//! - [`Ended`]: nothing more is delivered; other clients still see the subscriber until its presence is removed.
//!
//! Each stage is made from the one before it and owns what has to be given back: a subscription that is dropped at any stage
//! ends its catch-up and its hold on the channel at the broker. When the first subscription of a channel becomes live, its
//! hold moves to the channel's state ([`ChannelState`]), which the registry drops with the last one.

mod catch_up;
mod channel_state;
mod commit;
mod delivery_options;
mod filter_tracks;
mod live;
mod messages;
mod options;
mod outcome;
mod page_budget;
mod recovery;
mod request;
mod resolve;
mod source;

use self::{catch_up::CatchUp, recovery::StartPosition};
use super::{broker_subscriptions::ChannelHold, gap::Interruption, registry::GroupPlace};
use crate::{
    broker::{ChannelTop, HistoryPage, HistoryRequest, Retention, SincePosition},
    channel::Channel,
    clock::WallTime,
    position::Position,
};

pub(super) use self::{
    catch_up::CatchUpBuffer,
    channel_state::{ChannelState, PositionCheck},
    delivery_options::{DeliveryOptions, DeltaState},
    filter_tracks::FilterTracks,
};
pub use self::{
    messages::{
        ExpireSubscription, ExtendSubscription, FinishedRequests, GetSubscription, KeepPredicate, Reauthorize,
        RefusalBuilder, RefusedSubscribe, RenewSubscription, Subscribe, SubscribeEach, SubscribeError,
        SubscribeRequest, SubscriptionRenewal, Unsubscribe,
    },
    options::{RecoveryRequest, RequestedEpoch, SubscriptionOptions, Visibility},
    outcome::{ReplyBuilder, SubscribeOutcome},
    source::{HookTerms, SubscriptionSource, SubscriptionTerms},
};

/// A subscription in one of its stages.
pub struct Subscription<Stage> {
    pub(super) channel: Channel,
    pub(super) source: SubscriptionSource,
    pub(super) stage: Stage,
}

/// Stage: asked for by a session; the broker has not been asked.
pub struct Requested {
    pub(super) options: SubscriptionOptions,
    /// Builds a push that is queued before the reply, if the session was not subscribed yet.
    announcement: Option<ReplyBuilder>,
}

/// Stage: the broker has been asked for the channel, and perhaps for its history.
struct Resolving {
    requested: Requested,
    catch_up: CatchUp,
    query: Option<HistoryQuery>,
}

/// Stage: the broker delivers the channel, and its deliveries are stored.
struct CatchingUp {
    requested: Requested,
    catch_up: CatchUp,
    hold: ChannelHold,
    /// What was read of the history, if it was asked for.
    history: Option<HistoryPage>,
    /// Whether there was no room for the publications of that page.
    is_page_dropped: bool,
    /// Where the subscription starts; in a channel without a history, and until history and deliveries are merged, `None`.
    start: Option<StartPosition>,
    /// The newest publication that is known to be in the history, by what was read and delivered.
    stored: Option<ChannelTop>,
}

/// Stage: nothing is missing to make it live.
struct Ready {
    requested: Requested,
    /// `None` if the hub delivered the channel already when the subscription was requested.
    hold: Option<ChannelHold>,
    start: Option<StartPosition>,
    /// The newest publication that is known to be in the history.
    stored: Option<ChannelTop>,
    /// How far an interruption of the broker is that has begun since the subscription was requested.
    interruption: Option<Interruption>,
    outcome: SubscribeOutcome,
    /// Whether the session was not subscribed to the channel yet.
    is_new: bool,
}

/// Stage: the registry delivers to it.
pub(super) struct Live {
    /// The session's place among the subscribers of the channel, so that unsubscribing needs no search.
    pub(super) place: GroupPlace,
    /// How other clients see the subscriber; boxed, since most channels have neither presence nor joins and leaves.
    pub(super) visibility: Option<Box<Visibility>>,
    /// From when and from where on the client receives.
    pub(super) start: SubscriptionStart,
}

/// From when and from where on a client receives a channel, for the server API.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SubscriptionStart {
    pub(super) at: WallTime,
    /// The client gets everything after this position; `None` in a channel without a history.
    pub(super) after: Option<Position>,
}

/// Stage: the registry delivers to it no more; other clients still see the subscriber.
pub(super) struct Ended {
    pub(super) visibility: Option<Box<Visibility>>,
}

/// The part of a channel's history that is read.
#[derive(Clone, Copy)]
struct HistoryQuery {
    request: HistoryRequest,
    /// How long the channel keeps its history.
    retention: Retention,
    /// What the client has received, if it names that.
    known: Option<SincePosition>,
}

impl Subscription<Requested> {
    /// Creates a subscription that a session asks for.
    pub fn new(channel: Channel, source: SubscriptionSource, options: SubscriptionOptions) -> Self {
        Self { channel, source, stage: Requested { options, announcement: None } }
    }

    /// Returns the channel.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Adds pushes that are queued before the reply, if the session was not subscribed to the channel yet.
    pub fn announced_by(mut self, announcement: ReplyBuilder) -> Self {
        self.stage.announcement = Some(announcement);
        self
    }

    fn resolving(self, catch_up: CatchUp, query: Option<HistoryQuery>) -> Subscription<Resolving> {
        self.next_stage(|requested| Resolving { requested, catch_up, query })
    }
}

impl<Stage> Subscription<Stage> {
    fn next_stage<Next>(self, next: impl FnOnce(Stage) -> Next) -> Subscription<Next> {
        Subscription { channel: self.channel, source: self.source, stage: next(self.stage) }
    }
}
