//! Applies `limits.connections_per_user`: on this instance, and if the broker connects instances, on all of them together.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::future::BoxFuture;

use super::{Broker, SharedLimits};
use crate::connection_limit::{KeyedLimit, KeyedPermit};

/// Counts the connections of each user.
pub struct UserLimit {
    limit: AtomicUsize,
    /// Of this instance. It holds alone while the broker cannot be reached.
    own: Arc<KeyedLimit<Arc<str>>>,
    /// Of all instances. `None`: there is only one.
    shared: Option<Arc<dyn SharedLimits>>,
}

/// A permit for one connection of a user, returned when dropped.
pub type UserPermit = KeyedPermit<Arc<str>>;

impl UserLimit {
    /// Creates a limit of `limit` connections for each user. 0: no limit.
    pub fn new(limit: usize, broker: &dyn Broker) -> Arc<Self> {
        Arc::new(Self { limit: AtomicUsize::new(limit), own: KeyedLimit::new(limit), shared: broker.shared_limits() })
    }

    /// Changes the limit; 0: no limit. Open connections above a lower one stay. Those from the time without a limit do not count.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        self.own.set_limit(limit);
    }

    /// Acquires a permit of this instance; `None` if the user has used all of them. The verdict of the other instances follows: the
    /// caller drops the permit if that is no.
    pub fn acquire(&self, user: &Arc<str>) -> Option<(UserPermit, SharedVerdict)> {
        let mut permit = self.own.acquire(user)?;
        let limit = self.limit.load(Ordering::Relaxed);
        let verdict = self.shared.as_ref().filter(|_| limit > 0).map(|shared| {
            let counted = shared.count_connection(user, limit);
            permit.attach(counted.handle);
            counted.is_allowed
        });
        Some((permit, SharedVerdict(verdict)))
    }
}

/// Whether a user may have another connection, counted on all instances.
#[must_use]
pub struct SharedVerdict(Option<BoxFuture<'static, bool>>);

impl SharedVerdict {
    /// Waits for the broker, which may take `broker.redis.timeout`.
    pub async fn is_allowed(self) -> bool {
        match self.0 {
            Some(verdict) => verdict.await,
            None => true,
        }
    }

    /// Returns a future of the verdict, if the broker has to be asked.
    pub fn if_asked(self) -> Option<BoxFuture<'static, bool>> {
        self.0
    }
}
