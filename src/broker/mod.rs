//! The broker carries publications from the instance where they are published to every instance with subscribers for their
//! channel. It is the only seam of the crate, and knows channels and bytes, not sessions. It has two implementations,
//! [`memory`] and [`redis`]; the conformance suite in `tests/broker/` runs against both. A new method is added together with
//! the first feature that needs it, to both implementations at once.

mod control;
pub mod event_outbox;
mod explanation;
mod history;
mod inspection;
mod logins;
pub mod memory;
mod node_info;
mod presence;
mod publication_encoding;
pub mod redis;
mod revoke;
mod shared_limits;
mod survey;
mod trace;
mod user_limit;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, ready};
use prometheus_client::metrics::histogram::Histogram;
use uuid::Uuid;

use self::history::IDEMPOTENCY_TTL;
use self::inspection::MAX_QUESTION_BYTES;
pub use self::{
    control::{Control, ControlAction, ControlError, RecoverSince},
    event_outbox::EventOutbox,
    explanation::{
        Cause, ExplainQuery, ExplainedEnd, ExplainedPublication, ExplainedSession, MAX_EXPLAINED_SESSIONS,
        NodeExplanation, StoredFacts,
    },
    history::{
        ChannelTop, HistoryPage, HistoryRequest, PublishOptions, PublishReceipt, Retention, SincePosition, Version,
        page_limit, read_history_page,
    },
    inspection::{
        ChannelsPage, ChannelsQuery, ConnectionInfo, ConnectionPlace, ConnectionsPage, ConnectionsQuery, Inspection,
        LocalPlace, MAX_PAGE_BYTES, NodeChannel, OwnedPosition,
    },
    logins::{
        Login, LoginLimits, LoginRecord, LoginRefresh, LoginSelection, has_logins_of, login_tokens_end,
        revocation_of_login, revoke_with_logins,
    },
    node_info::{NodeIdentity, NodeInfo},
    presence::{PresenceCount, PresenceEvent, PresentClient},
    revoke::{RevokeError, revoke_everywhere, revoke_until_stored},
    shared_limits::{
        CountedConnection, LoginDelayRule, LoginFailureNames, LoginFailures, RateCharge, SharedLimits,
        SharedLoginAttempt, SharedLoginVerdict,
    },
    survey::{NodeAnswer, SurveyQuestion, SurveyResult},
    trace::{NodeTrace, TraceEvent, TraceEventKind, TraceQuery, TraceTarget, TracedEvent},
    user_limit::{SharedVerdict, UserLimit, UserPermit},
};
use crate::{
    channel::Channel,
    clock::WallTime,
    emulation::SendCommandsError,
    metrics::QueueDepth,
    position::{Epoch, Position},
    protocol::ErrorCode,
    publication::{ClientInfo, Publication},
    revocation::{ListFull, LoginId, Revocation, Revocations},
};

/// A broker, shared by hubs, sessions and the server API.
pub type SharedBroker = Arc<dyn Broker>;

/// The result of a broker call, once it is there.
pub type BrokerFuture<T> = BoxFuture<'static, Result<T, BrokerError>>;

/// What [`Broker::read_positions`] knows of one channel.
pub type PositionResult = Result<Option<ChannelTop>, BrokerError>;

fn completed<T: Send + 'static>(result: Result<T, BrokerError>) -> BrokerFuture<T> {
    ready(result).boxed()
}

/// What an instance needs from a broker. No method has a default body.
///
/// The broker does not count subscriptions: an instance subscribes once, for its first local subscriber of a channel, and
/// unsubscribes once, after its last. Both take effect in the order of the *calls*, whenever their futures are awaited.
pub trait Broker: Send + Sync {
    /// Stores a publication in its channel's history, if `options` ask for it, and sends it to every instance that is
    /// subscribed to the channel, this one included. Either both happen or neither. Publications are sent in the order of
    /// the calls. Completes when the broker has accepted the publication, not when it has arrived.
    fn publish(&self, publication: Publication, options: PublishOptions) -> BrokerFuture<PublishReceipt>;

    /// Reads a page of a channel's history. Creates the history if there is none, so that the caller has a position, which
    /// stays valid for at least `retention.meta_ttl`.
    fn read_history(
        &self,
        channel: Channel,
        request: HistoryRequest,
        retention: Retention,
    ) -> BrokerFuture<HistoryPage>;

    /// Reads what a client may have missed, like [`Self::read_history`]. The caller has subscribed to the channel and uses what this
    /// instance receives from the call on. So the page may be one that was read for another client before, together with what
    /// this instance has received since; it has what the client has received, too: the position `known`, if that belongs to
    /// the history. When the history is removed or expires, a page that shows it is used a few seconds longer, at most.
    fn read_missed(
        &self,
        channel: Channel,
        request: HistoryRequest,
        retention: Retention,
        known: Option<SincePosition>,
    ) -> BrokerFuture<HistoryPage>;

    /// Reads the positions of many channels, each of which stays valid for at least its `retention.meta_ttl`. Returns one result
    /// per channel, in the order of the request; `None`: the channel has no history, and none is created. Completes with errors
    /// instead of results if the broker fails.
    fn read_positions(&self, channels: Vec<(Channel, Retention)>) -> BoxFuture<'static, Vec<PositionResult>>;

    /// Gives a channel that has lost publications a new history without publications, unless its epoch is not `lost` any more.
    /// So every client learns that its position is void. Returns the position of the channel from then on, if it has one.
    fn renew_epoch(&self, channel: Channel, lost: Epoch) -> BrokerFuture<Option<Position>>;

    /// Removes the publications of a channel's history. The channel keeps its position.
    fn remove_history(&self, channel: Channel) -> BrokerFuture<()>;

    /// Sends a join or leave to every instance that is subscribed to the channel, in order with its publications.
    fn publish_presence_event(
        &self,
        channel: Channel,
        event: PresenceEvent,
        client: Arc<ClientInfo>,
    ) -> BrokerFuture<()>;

    /// Stores that a client is present in a channel for `ttl`. The next call for the same client replaces this one. All
    /// calls about presence, joins, leaves and publications of a channel take effect in the order of the calls.
    fn add_presence(&self, channel: Channel, client: Arc<ClientInfo>, ttl: Duration) -> BrokerFuture<()>;

    /// Stores again that these clients are present, like [`Self::add_presence`] for each.
    fn refresh_presence(&self, clients: Vec<PresentClient>, ttl: Duration) -> BrokerFuture<()>;

    /// Removes a client, named by its id, from a channel's presence.
    fn remove_presence(&self, channel: Channel, client: Arc<str>) -> BrokerFuture<()>;

    /// Reads which clients are present in a channel, on any live instance. Expired entries are left out. If a reply with all
    /// clients is certainly larger than `max_bytes`, some are left out, and the reply with the others is larger, too.
    fn presence(&self, channel: Channel, max_bytes: usize) -> BrokerFuture<Vec<Arc<ClientInfo>>>;

    /// Counts the clients that [`Self::presence`] returns, without a limit.
    fn count_presence(&self, channel: Channel) -> BrokerFuture<PresenceCount>;

    /// Starts to receive a channel. Publications sent after the future has completed are not missed.
    fn subscribe(&self, channel: Channel) -> BrokerFuture<()>;

    /// Stops receiving a channel. Publications that are already on their way may still arrive.
    fn unsubscribe(&self, channel: Channel);

    /// Asks every live node, this one included, and waits at most `timeout` for the answers. Completes with the nodes that
    /// have answered and those that have not. It is an error if no node has answered. A node that is not known to be alive
    /// is not asked.
    fn survey(&self, question: SurveyQuestion, timeout: Duration) -> BrokerFuture<SurveyResult>;

    /// Keeps revocations for all instances, also for those that start later, until they expire, and has every live node obey
    /// them. Waits at most `timeout` for the nodes, and completes with those that have not confirmed; the revocations are in
    /// force all the same.
    ///
    /// # Errors
    /// [`BrokerError::RevocationsFull`], above `limits.revocations`: nothing is revoked. Others: the revocations are not kept, but this
    /// node obeys them, and has them kept and obeyed by the others as soon as that is possible, unless it ends before.
    fn revoke(&self, revocations: Vec<Revocation>, timeout: Duration) -> BrokerFuture<Vec<NodeIdentity>>;

    /// Holds the deliveries of all hubs until every revocation that was sent before this call is in the list. Hubs call it after
    /// the process was `frozen_for` this time: it may not have received all of them yet.
    fn confirm_revocations(&self, frozen_for: Duration);

    /// Tells the other nodes that this one stops: from then on it is not alive for them, and answers no surveys. Completes
    /// when the broker has accepted the message.
    fn announce_stop(&self) -> BrokerFuture<()>;

    /// Sends a control to every live instance, this one included. Completes when the broker has accepted the control, not
    /// when the sessions have applied it.
    fn send_control(&self, control: Control) -> BrokerFuture<()>;

    /// Sends commands of a client to the node that has its session, which is another one. Completes with whether there is such a
    /// node. The messages of a session arrive in the order of the calls.
    fn send_commands(&self, node: &str, session: Uuid, message: Bytes) -> BrokerFuture<bool>;

    /// Stores `value` under `id`, which has 1 to 64 characters of `A-Za-z0-9_-`, until it is taken or `ttl` has passed.
    /// Above `limits.tickets` it may fail with [`BrokerError::Busy`]. Completes when the ticket can be taken.
    fn put_ticket(&self, id: String, value: Bytes, ttl: Duration) -> BrokerFuture<()>;

    /// Returns the value that any instance has stored under `id`, and leaves it there.
    fn read_ticket(&self, id: String) -> BrokerFuture<Option<Bytes>>;

    /// Takes the value that any instance has stored under `id`. If several callers ask, exactly one receives it, once. There
    /// is nothing under an invalid id.
    fn take_ticket(&self, id: String) -> BrokerFuture<Option<Bytes>>;

    /// Stores a login for all instances. Above the limit of logins per user, others of the user end. Returns these, and those that had ended
    /// so or by a refresh token used twice. They stay stored until [`Self::end_logins`], when their tokens are revoked: this result may be lost.
    fn start_login(&self, id: LoginId, login: Login, limits: LoginLimits) -> BrokerFuture<Vec<LoginRecord>>;

    /// Refreshes a login. `generation` is the number of earlier refreshes that the caller's refresh token is made for. Of several
    /// callers with one number, one refreshes; the others repeat it, if `limits` allow that, or end the login.
    fn refresh_login(
        &self,
        id: LoginId,
        generation: u32,
        now: WallTime,
        limits: LoginLimits,
    ) -> BrokerFuture<LoginRefresh>;

    /// Returns logins of the user with this tag, including those that have reached a limit and were not dropped yet.
    fn find_logins(&self, user_tag: String, selection: LoginSelection) -> BrokerFuture<Vec<LoginRecord>>;

    /// Ends logins of the user with this tag, and returns them.
    fn end_logins(&self, user_tag: String, selection: LoginSelection) -> BrokerFuture<Vec<LoginRecord>>;

    /// Returns the limits that hold for all instances together; `None`: there is one instance.
    fn shared_limits(&self) -> Option<Arc<dyn SharedLimits>>;

    /// Returns the outbox of events for the operator's backend.
    fn event_outbox(&self) -> Arc<dyn EventOutbox>;

    /// Returns how full the queues of the broker are.
    fn queue_depths(&self) -> Vec<QueueDepth>;

    /// Checks that publishing and subscribing work at the moment. The error gives the operator the reason if not. Publishing
    /// works if a publication has just been accepted: that a connection is open proves nothing.
    fn check_ready(&self) -> BrokerFuture<()>;
}

/// Receives what a broker delivers to this instance, and answers its surveys: the local hubs. A broker gets it at its start.
pub trait Deliver: Send + Sync {
    /// Queues a publication for the local subscribers of its channel. Never blocks: brokers call it where they read.
    ///
    /// # Errors
    /// [`QueueFull`]: no hub has received it.
    fn deliver_publication(&self, publication: Publication) -> Result<(), QueueFull>;

    /// Queues a join or leave for the local subscribers that receive them. Never blocks.
    ///
    /// # Errors
    /// [`QueueFull`]: no hub has received it.
    fn deliver_presence_event(
        &self,
        channel: Channel,
        event: PresenceEvent,
        client: Arc<ClientInfo>,
    ) -> Result<(), QueueFull>;

    /// Queues a control for the local sessions that it addresses. Never blocks.
    ///
    /// # Errors
    /// [`QueueFull`]: no hub has received it.
    fn deliver_control(&self, control: Control) -> Result<(), QueueFull>;

    /// Queues commands that a client has sent to another node, for the local session that has this id. Never blocks.
    ///
    /// # Errors
    /// [`SendCommandsError`].
    fn deliver_commands(&self, session: &Uuid, message: Bytes) -> Result<(), SendCommandsError>;

    /// Learns that a probe has arrived which this node has sent to itself. Has each hub note in `lag` how many seconds have passed
    /// since then.
    fn note_probe(&self, sent_at: Instant, lag: Histogram);

    /// Learns that controls may have been lost on their way to this instance.
    fn note_lost_controls(&self);

    /// Learns that publications of these channels may have been lost on their way to this instance, and that it will be
    /// subscribed to them again. Called before the broker subscribes again.
    fn note_interrupted(&self, channels: &[Channel]);

    /// Learns that the instance is subscribed again to channels that were interrupted.
    fn note_resubscribed(&self, channels: &[Channel]);

    /// Returns the revocations of this instance.
    fn revocations(&self) -> &Arc<Revocations>;

    /// Adds revocations. From then on nothing is delivered before they are obeyed. Never blocks.
    ///
    /// # Errors
    /// [`ListFull`]: those that had room are added.
    fn add_revocations(&self, revocations: Vec<Revocation>) -> Result<(), ListFull>;

    /// Adds revocations as [`Self::add_revocations`] does, but all or none.
    ///
    /// # Errors
    /// [`ListFull`]: none is added.
    fn add_revocations_or_none(&self, revocations: Vec<Revocation>) -> Result<(), ListFull>;

    /// Lets hubs whose deliveries were held deliver again.
    fn release_deliveries(&self);

    /// Returns which node this is.
    fn node(&self) -> NodeIdentity;

    /// Answers a survey for this node.
    fn answer_survey(&self, question: SurveyQuestion) -> BoxFuture<'static, Vec<u8>>;
}

/// Maximum length of a ticket's id, because Redis stores it as part of a key.
const MAX_TICKET_ID_BYTES: usize = 64;

/// Returns whether `id` may name a ticket, and so become part of a key.
fn is_valid_ticket_id(id: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=MAX_TICKET_ID_BYTES).contains(&id.len()) && id.bytes().all(is_allowed)
}

fn invalid_ticket_id() -> BrokerError {
    BrokerError::Unavailable("a ticket id must have 1 to 64 characters of A-Za-z0-9_-".to_owned())
}

/// The delivery queue of a hub is full (`limits.hub_queue_bytes`), or too many controls are waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue of a hub is full")]
pub struct QueueFull;

impl From<QueueFull> for BrokerError {
    fn from(QueueFull: QueueFull) -> Self {
        Self::Busy
    }
}

/// Why a broker call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// The broker is not reachable, does not answer in time, or refuses: error 100, temporary. The text is for the hub's
    /// log, not for clients.
    #[error("broker unavailable: {0}")]
    Unavailable(String),
    /// A queue or a store has reached its limit: error 111, temporary.
    #[error("broker busy: a queue or a store has reached its limit")]
    Busy,
    /// `limits.revocations` is reached: error 106.
    #[error(transparent)]
    RevocationsFull(#[from] ListFull),
    /// No node has answered a survey, not even this one.
    #[error("no node has answered the survey in time")]
    NoAnswer,
    /// The broker cannot be used at the moment. Only [`Broker::check_ready`] returns it.
    #[error("broker not ready: {detail}")]
    NotReady {
        /// What does not work, for everyone who may ask for the readiness.
        problem: &'static str,
        /// The cause, with addresses, for the hub's log.
        detail: String,
    },
}

impl BrokerError {
    /// The error of a new history for whose epoch the system has no randomness.
    fn no_epoch(error: getrandom::Error) -> Self {
        Self::Unavailable(format!("no randomness for the epoch of a history: {error}"))
    }
}

/// The error that a client or a caller of the server API receives.
impl From<BrokerError> for ErrorCode {
    fn from(error: BrokerError) -> Self {
        match error {
            BrokerError::Busy => Self::TooManyRequests,
            BrokerError::RevocationsFull(ListFull) => Self::LimitExceeded,
            BrokerError::Unavailable(_) | BrokerError::NotReady { .. } | BrokerError::NoAnswer => Self::Internal,
        }
    }
}
