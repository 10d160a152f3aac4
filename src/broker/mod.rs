//! The one seam: what carries publications from whoever publishes to the instances where somebody listens. It knows
//! channels and bytes, not sessions. Two implementations, [`memory`] and [`redis`]; one suite in `tests/` holds both to
//! this page. A method arrives with the feature that needs it, in all of them at once.

mod control;
mod history;
pub mod memory;
mod node_info;
mod publication_encoding;
pub mod redis;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;

pub use self::{
    control::{Control, ControlAction, ControlError, RecoverSince},
    history::{
        HistoryPage, HistoryRequest, PresenceEvent, PublishOptions, PublishReceipt, Retention, SincePosition, Version,
        read_history_page,
    },
    node_info::NodeInfo,
};
use crate::{
    channel::Channel,
    protocol::ErrorCode,
    publication::{ClientInfo, Publication},
};

/// What an instance asks of a broker. No default bodies.
///
/// Subscriptions are counted by nobody here: the instance asks once for its first listener and gives back once after its
/// last. `subscribe` and `unsubscribe` take effect in the order in which they are *called*, whenever they are awaited.
pub trait Broker: Send + Sync {
    /// Puts a publication into its channel's history, if it is to be kept, and sends it to every instance that is
    /// subscribed to the channel, this one included, in the order of the calls: both, or neither. Ready when the broker has
    /// it, not when it has arrived.
    fn publish(
        &self,
        publication: Publication,
        options: PublishOptions,
    ) -> BoxFuture<'static, Result<PublishReceipt, BrokerError>>;

    /// What a channel's history has. A channel that has none yet gets one: whoever asks has a position from then on, and
    /// keeps it for `retention.meta_ttl` at least.
    fn read_history(
        &self,
        channel: Channel,
        request: HistoryRequest,
        retention: Retention,
    ) -> BoxFuture<'static, Result<HistoryPage, BrokerError>>;

    /// Forgets what a channel has kept, not where it stands.
    fn remove_history(&self, channel: Channel) -> BoxFuture<'static, Result<(), BrokerError>>;

    /// Tells every instance that is subscribed to the channel who has come or left, in order with its publications.
    fn publish_presence_event(
        &self,
        channel: Channel,
        event: PresenceEvent,
        who: Arc<ClientInfo>,
    ) -> BoxFuture<'static, Result<(), BrokerError>>;

    /// Says that a client is in a channel, for so long; again, that it still is.
    fn add_presence(
        &self,
        channel: Channel,
        who: Arc<ClientInfo>,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<(), BrokerError>>;

    /// Says that a client is there no more.
    fn remove_presence(&self, channel: Channel, client: Arc<str>) -> BoxFuture<'static, Result<(), BrokerError>>;

    /// Who is in a channel, on any instance; whose time is over is not.
    fn presence(&self, channel: Channel) -> BoxFuture<'static, Result<Vec<Arc<ClientInfo>>, BrokerError>>;

    /// Begins to receive a channel. When it is ready, no publication that is published later is missed.
    fn subscribe(&self, channel: Channel) -> BoxFuture<'static, Result<(), BrokerError>>;

    /// Stops receiving a channel. Publications under way may still arrive.
    fn unsubscribe(&self, channel: Channel);

    /// Asks every live instance, this one included, and gathers the answers that come within `deadline`. The instances
    /// that were asked and did not answer make it an error: half a truth looks like a whole one.
    fn survey(
        &self,
        question: SurveyQuestion,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Vec<Vec<u8>>, BrokerError>>;

    /// Hands an order to every live instance, this one included. Ready when the broker has it, not when it is done.
    fn send_control(&self, control: Control) -> BoxFuture<'static, Result<(), BrokerError>>;

    /// Keeps `value` under `id`, which is 1 to 64 of `A-Za-z0-9_-`, until it is taken or `ttl` is over. Over
    /// `limits.tickets` it may be Busy. Ready when it can be taken.
    fn put_ticket(&self, id: String, value: Bytes, ttl: Duration) -> BoxFuture<'static, Result<(), BrokerError>>;

    /// Takes what was put under `id`, by whichever instance. Of all who ask, one gets it, once. What cannot be an id is
    /// not there.
    fn take_ticket(&self, id: String) -> BoxFuture<'static, Result<Option<Bytes>, BrokerError>>;

    /// Whether publishing and subscribing work at the moment; with the reason in the operator's words if not.
    fn check_ready(&self) -> BoxFuture<'static, Result<(), String>>;
}

/// Where publications leave a broker, and who answers its questions: the hubs of this instance. Given at start.
pub trait Deliver: Send + Sync {
    /// Takes a publication for the local subscribers of its channel. Never blocks: brokers call it from where they read.
    ///
    /// # Errors
    /// [`QueueFull`]: nothing was taken.
    fn deliver_publication(&self, publication: Publication) -> Result<(), QueueFull>;

    /// Takes a join or a leave for the local subscribers who want to know. Never blocks, as above.
    ///
    /// # Errors
    /// [`QueueFull`]: it was not taken.
    fn deliver_presence_event(
        &self,
        channel: Channel,
        event: PresenceEvent,
        who: Arc<ClientInfo>,
    ) -> Result<(), QueueFull>;

    /// Takes an order for the local sessions that it is for. Never blocks, as above.
    ///
    /// # Errors
    /// [`QueueFull`]: it was not taken.
    fn deliver_control(&self, control: Control) -> Result<(), QueueFull>;

    /// This instance's answer to a survey.
    fn answer_survey(&self, question: SurveyQuestion) -> BoxFuture<'static, Vec<u8>>;
}

/// What instances ask each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SurveyQuestion {
    /// Which channels have subscribers, and how many: a JSON object of numbers.
    Channels,
    /// How the instance is: a [`NodeInfo`] as JSON.
    Info,
}

/// Longest id of a ticket: part of a key at Redis.
const TICKET_ID_BYTES: usize = 64;

/// Whether a ticket can be called so. Nothing else becomes part of a key.
fn is_valid_ticket_id(id: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=TICKET_ID_BYTES).contains(&id.len()) && id.bytes().all(is_plain)
}

fn invalid_ticket_id() -> BrokerError {
    BrokerError::Unavailable("not the id of a ticket".to_owned())
}

/// A hub's queue is full (`limits.hub_queue_bytes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room in the queue of a hub")]
pub struct QueueFull;

/// Why a broker did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// Not reachable, not answering in time, or refusing: error 100, temporary. The text is for our log, not for clients.
    #[error("broker unavailable: {0}")]
    Unavailable(String),
    /// Receivers are behind: error 111, temporary.
    #[error("too many publications waiting")]
    Busy,
    /// This broker does not do it: error 108.
    #[error("not with this broker")]
    NotAvailable,
    /// Not every instance answered.
    #[error("{answered} of {asked} instances answered")]
    Incomplete {
        /// How many did.
        answered: usize,
        /// How many should have.
        asked: usize,
    },
}

/// The error that a client or a caller of the server API gets.
impl From<BrokerError> for ErrorCode {
    fn from(error: BrokerError) -> Self {
        match error {
            BrokerError::Busy => Self::TooManyRequests,
            BrokerError::NotAvailable => Self::NotAvailable,
            BrokerError::Unavailable(_) | BrokerError::Incomplete { .. } => Self::Internal,
        }
    }
}

/// A broker, shared by hubs, sessions and API.
pub type SharedBroker = Arc<dyn Broker>;
