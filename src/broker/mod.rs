//! The one seam: what carries publications from whoever publishes to the instances where somebody listens. It knows
//! channels and bytes, not sessions. Two implementations, [`memory`] and [`redis`]; one suite in `tests/` holds both to
//! this page. A method arrives with the feature that needs it, in all of them at once.

mod control;
pub mod memory;
pub mod redis;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use crate::{channel::Channel, publication::Publication};

pub use control::{Control, Order};

/// What an instance asks of a broker. No default bodies.
///
/// Subscriptions are counted by nobody here: the instance asks once for its first listener and gives back once after its
/// last. `subscribe` and `unsubscribe` take effect in the order in which they are *called*, whenever they are awaited.
pub trait Broker: Send + Sync {
    /// Sends a publication to every instance that is subscribed to its channel, this one included, in the order of the
    /// calls. Ready when the broker has it, not when it has arrived.
    fn publish(&self, publication: Publication) -> BoxFuture<'static, Result<(), BrokerError>>;

    /// Begins to receive a channel. When it is ready, no publication that is published later is missed.
    fn subscribe(&self, channel: Channel) -> BoxFuture<'static, Result<(), BrokerError>>;

    /// Stops receiving a channel. Publications under way may still arrive.
    fn unsubscribe(&self, channel: Channel);

    /// Asks every live instance, this one included, and gathers the answers that come within `deadline`. The instances
    /// that were asked and did not answer make it an error: half a truth looks like a whole one.
    fn survey(&self, question: Question, deadline: Duration) -> BoxFuture<'static, Result<Vec<Vec<u8>>, BrokerError>>;

    /// Whether publishing and subscribing work at the moment; with the reason in the operator's words if not.
    fn ready(&self) -> BoxFuture<'static, Result<(), String>>;
}

/// Where publications leave a broker, and who answers its questions: the hubs of this instance. Given at start.
pub trait Deliver: Send + Sync {
    /// Takes a publication for the local subscribers of its channel. Never blocks: brokers call it from where they read.
    ///
    /// # Errors
    /// [`NoRoom`]: nothing was taken.
    fn deliver(&self, publication: Publication) -> Result<(), NoRoom>;

    /// This instance's answer to a survey.
    fn answer(&self, question: Question) -> BoxFuture<'static, Vec<u8>>;
}

/// What instances ask each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Which channels have subscribers, and how many: a JSON object of numbers.
    Channels,
}

/// A hub's queue is full (`limits.hub_queue_bytes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room in the queue of a hub")]
pub struct NoRoom;

/// Why a broker did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// Not reachable, not answering in time, or refusing: error 100, temporary. The text is for our log, not for clients.
    #[error("broker unavailable: {0}")]
    Unavailable(String),
    /// Receivers are behind: error 111, temporary.
    #[error("too many publications waiting")]
    Busy,
    /// Not every instance answered.
    #[error("{answered} of {asked} instances answered")]
    Incomplete {
        /// How many did.
        answered: usize,
        /// How many should have.
        asked: usize,
    },
}

/// A broker, shared by hubs, sessions and API.
pub type SharedBroker = Arc<dyn Broker>;
