//! The list of revocations as verifier, hubs and broker share it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::RwLock;
use tokio::sync::Notify;

use super::{KeyNumber, ListFull, Revocation, RevocationList, TokenIdentity};
use crate::{
    channel::Channel,
    clock::{Clock, WallTime},
    config::{Config, RequiredClaim},
    metrics::Metrics,
};

/// The revocations of this instance. A hub compares [`Self::state`] before each piece of work, which takes no lock.
pub struct Revocations {
    list: RwLock<RevocationList>,
    /// Twice the version of the list, and 1 while deliveries are held.
    state: AtomicU64,
    released: Notify,
    /// Without an expiry of their own, revocations last as long as any token that exists now.
    default_lifetime: Option<Duration>,
    max_entries: usize,
    clock: Clock,
    metrics: Arc<Metrics>,
}

/// What a hub compares: which revocations there are, and whether it may deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevocationState(u64);

impl RevocationState {
    /// The state of an empty list whose deliveries are not held.
    pub const INITIAL: Self = Self(0);
    const HELD: u64 = 1;

    /// Returns whether nothing may be delivered, because the list may lack revocations.
    pub fn is_held(self) -> bool {
        self.0 & Self::HELD != 0
    }

    fn version(self) -> u64 {
        self.0 >> 1
    }
}

/// The revocations that a hub has not applied yet.
#[derive(Debug, PartialEq, Eq)]
pub enum Changes {
    /// These.
    Known(Vec<Revocation>),
    /// More than are kept: every session is checked against the list.
    Many,
}

impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocations").field("state", &self.state()).finish_non_exhaustive()
    }
}

/// An empty list with the default configuration.
impl Default for Revocations {
    fn default() -> Self {
        Self::with(&Config::default(), Clock::default(), Arc::default())
    }
}

impl Revocations {
    /// Creates an empty list of at most `limits.revocations`.
    pub fn new(config: &Config, clock: Clock, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self::with(config, clock, metrics))
    }

    fn with(config: &Config, clock: Clock, metrics: Arc<Metrics>) -> Self {
        let tokens_expire = config.auth.required_claims.contains(&RequiredClaim::Exp);
        Self {
            list: RwLock::new(RevocationList::new(config.limits.revocations)),
            state: AtomicU64::new(RevocationState::INITIAL.0),
            released: Notify::new(),
            max_entries: config.limits.revocations,
            default_lifetime: tokens_expire.then_some(config.auth.max_ttl),
            clock,
            metrics,
        }
    }

    /// Returns when every token that is valid now has expired: `auth.max_ttl` from now, or never if tokens need no `exp`.
    pub fn default_expiry(&self) -> WallTime {
        self.default_lifetime.map_or(WallTime::LATEST_DATE, |lifetime| self.clock.now().saturating_add(lifetime))
    }

    /// Returns `limits.revocations`.
    pub fn max_entries(&self) -> usize {
        self.max_entries
    }

    /// Returns the time before which every token was issued that exists now. `iat` counts whole seconds.
    pub fn issued_until_now(&self) -> WallTime {
        WallTime::from_unix_seconds(self.clock.now().unix_seconds().saturating_add(1))
    }

    /// Adds revocations. From then on no token that they mean is accepted, and no hub delivers anything before it has applied
    /// them. Returns whether any of them is new.
    ///
    /// # Errors
    /// [`ListFull`]: those that had room are in force.
    pub fn add(&self, revocations: impl IntoIterator<Item = Revocation>) -> Result<bool, ListFull> {
        let mut list = self.list.write();
        let (before, now) = (list.version(), self.clock.now());
        let added = revocations.into_iter().try_for_each(|revocation| list.add(revocation, now).map(drop));
        let changes = list.version() - before;
        // While the list is locked: the state never names a version that the list does not have.
        self.state.fetch_add(2 * changes, Ordering::Release);
        self.metrics.revocations.set(i64::try_from(list.len()).unwrap_or(i64::MAX));
        added.map(|()| changes > 0)
    }

    /// Notes that keys are in use.
    pub fn add_keys(&self, keys: impl IntoIterator<Item = KeyNumber>) {
        self.list.write().add_keys(keys);
    }

    /// Revokes the tokens of keys that are no longer in use, on this instance.
    pub fn remove_keys(&self, keys: &[KeyNumber]) {
        if !keys.is_empty() {
            let mut list = self.list.write();
            list.remove_keys(keys);
            self.state.fetch_add(2, Ordering::Release);
        }
    }

    /// Returns whether a token is revoked.
    pub fn is_revoked(&self, user: &str, token: &TokenIdentity) -> bool {
        !self.is_empty() && self.list.read().is_revoked(user, token, self.clock.now())
    }

    /// Returns whether a token is revoked in this channel.
    pub fn is_revoked_in(&self, user: &str, channel: &Channel, token: &TokenIdentity) -> bool {
        !self.is_empty() && self.list.read().is_revoked_in(user, channel, token, self.clock.now())
    }

    /// Returns whether there has never been a revocation.
    pub fn is_empty(&self) -> bool {
        self.state().version() == 0
    }

    /// Returns what hubs compare.
    pub fn state(&self) -> RevocationState {
        RevocationState(self.state.load(Ordering::Acquire))
    }

    /// Returns what has changed since `before`, and the state from then on.
    pub fn changes_since(&self, before: RevocationState) -> (RevocationState, Changes) {
        let list = self.list.read();
        let changes = list.changes_since(before.version()).map_or(Changes::Many, Changes::Known);
        (RevocationState(list.version() << 1), changes)
    }

    /// Holds the deliveries of all hubs until [`Self::release`], because the list may lack revocations.
    pub fn hold(&self) {
        self.state.fetch_or(RevocationState::HELD, Ordering::AcqRel);
    }

    /// Lets the hubs deliver again. Returns whether they were held: then the caller has to wake them.
    pub fn release(&self) -> bool {
        let was_held = self.state.fetch_and(!RevocationState::HELD, Ordering::AcqRel) & RevocationState::HELD != 0;
        self.released.notify_waiters();
        was_held
    }

    /// Waits until deliveries are not held.
    pub async fn wait_until_released(&self) {
        loop {
            // Also completes after a release that comes before it is awaited.
            let released = self.released.notified();
            if !self.state().is_held() {
                return;
            }
            released.await;
        }
    }

    /// Returns how many revocations have not expired.
    pub fn count(&self) -> usize {
        let mut list = self.list.write();
        list.drop_expired(self.clock.now());
        self.metrics.revocations.set(i64::try_from(list.len()).unwrap_or(i64::MAX));
        list.len()
    }

    /// Returns all revocations that have not expired.
    pub fn entries(&self) -> Vec<Revocation> {
        self.list.read().entries(self.clock.now()).cloned().collect()
    }
}
