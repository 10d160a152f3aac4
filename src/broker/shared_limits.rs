//! Limits that hold for all instances together. Only a broker that connects instances has them. An instance asks its own limits
//! first, which hold alone while the broker cannot be reached.

use std::{any::Any, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use super::{BrokerError, BrokerFuture};
use crate::rate_limit::Gcra;

/// What all instances of an installation count together.
pub trait SharedLimits: Send + Sync {
    /// Starts a login attempt, unless earlier failures delay it. It counts as failed until [`Self::forgive_login`].
    fn begin_login(&self, names: LoginFailureNames, rule: LoginDelayRule) -> BrokerFuture<SharedLoginVerdict>;

    /// Undoes an attempt whose password was right, and forgets the failures of the user from the address.
    fn forgive_login(&self, names: LoginFailureNames, attempt: SharedLoginAttempt) -> BrokerFuture<()>;

    /// Counts a connection of a user, who may have `limit` on all instances together.
    fn count_connection(&self, user: &Arc<str>, limit: usize) -> CountedConnection;

    /// Charges events to users, and returns for each how long it takes until its bucket is full again. The events have happened:
    /// none is refused, and those above the burst have to be waited for like the others. An error is that of one user.
    fn charge_rates(&self, charges: Vec<RateCharge>, rate: Gcra) -> BrokerFuture<Vec<Result<Duration, BrokerError>>>;
}

/// Under which names failed logins are counted. They are MACs: the broker learns neither users nor addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginFailureNames {
    /// The user from the address.
    pub pair: String,
    /// The address.
    pub address: String,
    /// The user.
    pub user: String,
}

/// How failed logins delay the next ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginDelayRule {
    /// Failures are forgotten after this time without another one.
    pub forget_after: Duration,
    /// The first delay. Each further one is twice as long.
    pub first_wait: Duration,
    /// The longest delay.
    pub max_wait: Duration,
    /// Failures of a user from an address that cause no delay.
    pub free_of_pair: u32,
    /// The same, of an address.
    pub free_of_address: u32,
    /// A user with more failures than this has only one that causes no delay from each address.
    pub attacked_above: u32,
}

/// Failures, as they are counted for all instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoginFailures {
    /// Their number.
    pub failures: u32,
    /// The delay of the next attempt, from now on.
    pub wait: Duration,
}

/// Whether a login may be attempted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedLoginVerdict {
    /// The attempt; `None`: it comes too early, and was not counted.
    pub attempt: Option<SharedLoginAttempt>,
    /// Failures of the user from the address, this attempt included.
    pub pair: LoginFailures,
    /// Failures of the address.
    pub address: LoginFailures,
    /// Failures of the user; no delay follows from them alone.
    pub user: u32,
}

/// An attempt that has been counted: the earliest time for the next one of the address, which it has set, and the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedLoginAttempt(pub(super) [String; 2]);

/// A connection that is counted for its user.
pub struct CountedConnection {
    /// The connection is counted until this is dropped.
    pub handle: Box<dyn Any + Send + Sync>,
    /// Whether the user may have it. Without an answer of the broker: yes.
    pub is_allowed: BoxFuture<'static, bool>,
}

/// Events to be charged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateCharge {
    /// The tag of the user.
    pub user_tag: String,
    /// The number of events.
    pub events: u32,
}
