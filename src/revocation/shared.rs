//! The list of revocations that verifier, hubs and broker share.

use std::{
    fmt,
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::RwLock;
use tokio::sync::Notify;

use super::{IssuerScope, KeyInUse, KeyNumber, ListFull, Revocation, RevocationList, RevocationTarget, TokenIdentity};
use crate::{
    address::ClientAddress,
    channel::Channel,
    clock::{Clock, NEVER, WallTime},
    config::{Config, RequiredClaim, UserPrefixes},
    metrics::Metrics,
    rate_limit::KeyedRateLimiter,
};

/// The time in which `limits.logouts_per_user` are allowed, if tokens do not expire.
const LOGOUT_WINDOW: Duration = Duration::from_secs(24 * 3600);

/// By how much the wall clock has to be set back to count: the hubs read it one after the other.
const CLOCK_STEP: Duration = Duration::from_millis(500);

/// The revocations of this instance. A hub compares [`Self::state`] before each piece of work, which takes no lock.
pub struct Revocations {
    list: RwLock<RevocationList>,
    /// Twice the version of the list, and 1 while deliveries are held.
    state: AtomicU64,
    released: Notify,
    /// Whether the list is not still that of a new instance, which may lack all revocations.
    is_loaded: AtomicBool,
    /// When the first key ends, in milliseconds since the epoch.
    next_key_end: AtomicI64,
    /// The latest time that the wall clock has shown since it was set back, in milliseconds since the epoch.
    latest_time: AtomicI64,
    /// Without an expiry of their own, revocations last as long as any token that exists now.
    default_lifetime: Option<Duration>,
    max_entries: usize,
    logouts: KeyedRateLimiter,
    clock: Clock,
    metrics: Arc<Metrics>,
}

/// The state that a hub compares: which revocations there are, and whether it may deliver.
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

/// Whether the tokens of a logout say when they were issued (`iat`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IssueTimes {
    /// They do.
    Known,
    /// They may not.
    Unknown,
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
        let logouts = config.limits.logouts_per_user;
        // A token may have an `iat` that is ahead by `auth.clock_skew`, and live for as much longer than `auth.max_ttl` from then on.
        let longest_lifetime = config.auth.max_ttl.saturating_add(config.auth.clock_skew.saturating_mul(2));
        let window = if tokens_expire { longest_lifetime } else { LOGOUT_WINDOW };
        Self {
            list: RwLock::new(RevocationList::new(config.limits.revocations)),
            state: AtomicU64::new(RevocationState::INITIAL.0),
            released: Notify::new(),
            is_loaded: AtomicBool::new(true),
            next_key_end: AtomicI64::new(NEVER.unix_millis()),
            latest_time: AtomicI64::new(clock.now().unix_millis()),
            max_entries: config.limits.revocations,
            logouts: KeyedRateLimiter::with_interval(window / logouts.max(1), logouts),
            default_lifetime: tokens_expire.then_some(longest_lifetime),
            clock,
            metrics,
        }
    }

    /// Returns when every token that exists now has expired: `auth.max_ttl` and twice `auth.clock_skew` from now, or never if tokens
    /// need no `exp`.
    pub fn default_expiry(&self) -> WallTime {
        self.expiry_of_tokens_until(self.clock.now())
    }

    /// Returns when every token has expired that exists at a time.
    fn expiry_of_tokens_until(&self, time: WallTime) -> WallTime {
        self.default_lifetime.map_or(WallTime::LATEST_DATE, |lifetime| time.saturating_add(lifetime))
    }

    /// Returns `limits.revocations`.
    pub fn max_entries(&self) -> usize {
        self.max_entries
    }

    /// Returns the time before which every token was issued that exists now. `iat` counts whole seconds.
    pub fn issued_until_now(&self) -> WallTime {
        after_second_of(self.clock.now())
    }

    /// Returns the date and time by which revocations expire.
    pub fn now(&self) -> WallTime {
        self.clock.now()
    }

    /// Returns the revocation by which a logout ends the tokens of `target`, one of which expires at `token_end`. The other parameters are
    /// those of [`Self::limit_per_user`].
    pub fn of_logout(
        &self,
        user: &str,
        target: RevocationTarget,
        token_end: WallTime,
        latest_issue: RangeInclusive<WallTime>,
        issue_times: IssueTimes,
    ) -> Revocation {
        let expires_at = match target {
            RevocationTarget::Token(..) => token_end,
            // Other tokens of the session may live longer.
            _ => token_end.max(self.default_expiry()),
        };
        let revocation = Revocation::of_all(target, expires_at);
        self.limit_per_user(user, revocation, latest_issue, issue_times)
    }

    /// Returns the revocation of one token or session of a user, or what takes its place. A user with more of them than
    /// `limits.logouts_per_user` would fill the list: then it is all tokens that the user has from this issuer now, which is one
    /// entry however often. It would mean also newer tokens without `iat`, and lock their user out. So it lasts only as long as the
    /// one that it replaces, and where tokens may have no `iat` it takes its place only when the list is half full: until then
    /// others have enough room.
    ///
    /// The latest of the tokens was issued at a time in `latest_issue`. A repetition counts no second time, and means no newer tokens: the list
    /// has the revocation, or what has taken its place.
    pub fn limit_per_user(
        &self,
        user: &str,
        revocation: Revocation,
        latest_issue: RangeInclusive<WallTime>,
        issue_times: IssueTimes,
    ) -> Revocation {
        if user.is_empty() {
            return revocation;
        }
        let scope = revocation.target.issuer().map_or(IssuerScope::Any, |issuer| IssuerScope::Only(issuer.to_owned()));
        let all_of_user = RevocationTarget::User(user.to_owned(), scope);
        let (first, last) = latest_issue.into_inner();
        let now = self.clock.now();
        let is_crowded = {
            let list = self.list.read();
            if list.find(&revocation.target, now).is_some() {
                return revocation;
            }
            let end = revocation.expires_at.min(self.expiry_of_tokens_until(last));
            let is_included = |known: &&Revocation| first < known.issued_before && end <= known.expires_at;
            if let Some(known) = list.find(&all_of_user, now).filter(is_included) {
                return known.clone();
            }
            list.len() >= self.max_entries / 2
        };
        if self.logouts.charge(user).is_ok() || (issue_times == IssueTimes::Unknown && !is_crowded) {
            return revocation;
        }
        let issued_before = after_second_of(last.min(now));
        Revocation { target: all_of_user, issued_before, expires_at: revocation.expires_at }
    }

    /// Returns whether the tokens of a login may be revoked that a newer login of its user has ended. A user who logs in again and
    /// again would fill the list, and the tokens of the new login must not be revoked, too. The number is that of the logouts.
    pub fn may_revoke_replaced_login(&self, user: &str) -> bool {
        self.logouts.charge(&("replaced", user)).is_ok()
    }

    /// Returns whether the tokens of a login may be revoked whose refresh token was used twice. Its user could fill the list with logins.
    /// `user` is its tag. The number is that of the logouts.
    pub fn may_revoke_reused_login(&self, user: &str) -> bool {
        self.logouts.charge(&("reused", user)).is_ok()
    }

    /// Charges a logout by a token that is void itself, such as the refresh token of a login that has ended: a thief of one could log its
    /// user out at every login, and a user who has kept many could fill the list. The number is that of the logouts.
    ///
    /// # Errors
    /// How long the user has to wait.
    pub fn charge_void_logout(&self, user: &str) -> Result<(), Duration> {
        self.logouts.charge(&("void", user))
    }

    /// Charges a logout by a token without a user to the address from which it comes. The number is that of the logouts of a user.
    ///
    /// # Errors
    /// How long the address has to wait.
    pub fn charge_anonymous_logout(&self, address: &ClientAddress) -> Result<(), Duration> {
        self.logouts.charge(address)
    }

    /// Adds revocations. From then on no token that they mean is accepted, and no hub delivers anything before it has applied
    /// them. Returns whether any of them is new.
    ///
    /// # Errors
    /// [`ListFull`]: those that had room are in force.
    pub fn add(&self, revocations: impl IntoIterator<Item = Revocation>) -> Result<bool, ListFull> {
        self.change(|list, now| list.add_each(revocations, now))
    }

    /// Adds revocations as [`Self::add`] does, but all or none.
    ///
    /// # Errors
    /// [`ListFull`]: none of them is in force.
    pub fn add_all(&self, revocations: Vec<Revocation>) -> Result<(), ListFull> {
        self.change(|list, now| list.add_all(revocations, now)).map(drop)
    }

    /// Changes the list, and has the hubs apply that. Returns whether anything has changed.
    fn change(
        &self,
        change: impl FnOnce(&mut RevocationList, WallTime) -> Result<(), ListFull>,
    ) -> Result<bool, ListFull> {
        let mut list = self.list.write();
        let (before, now) = (list.version(), self.clock.now());
        self.latest_time.fetch_max(now.unix_millis(), Ordering::Relaxed);
        let changed = change(&mut list, now);
        let changes = list.version() - before;
        // While the list is locked: the state never names a version that the list does not have.
        self.state.fetch_add(2 * changes, Ordering::Release);
        self.metrics.revocations.set(i64::try_from(list.len()).unwrap_or(i64::MAX));
        changed.map(|()| changes > 0)
    }

    /// Notes that keys are in use. Revokes the tokens of those whose end was moved into the past.
    pub fn add_keys(&self, keys: impl IntoIterator<Item = KeyInUse>) {
        let (mut list, now) = (self.list.write(), self.clock.now());
        let (current, ended): (Vec<KeyInUse>, Vec<KeyInUse>) = keys.into_iter().partition(|key| now < key.ends);
        list.add_keys(current);
        // One that had ended before was removed, and stays so.
        let ended: Vec<KeyNumber> = ended.iter().map(|key| key.number).filter(|key| list.has_key(*key)).collect();
        if !ended.is_empty() {
            list.remove_keys(&ended);
            self.state.fetch_add(2, Ordering::Release);
        }
        self.next_key_end.store(list.next_key_end().unix_millis(), Ordering::Relaxed);
    }

    /// Revokes the tokens of keys that are no longer in use, on this instance.
    pub fn remove_keys(&self, keys: &[KeyNumber]) {
        if !keys.is_empty() {
            let mut list = self.list.write();
            list.remove_keys(keys);
            self.next_key_end.store(list.next_key_end().unix_millis(), Ordering::Relaxed);
            self.state.fetch_add(2, Ordering::Release);
        }
    }

    /// Returns whether the end of a key has come whose tokens [`Self::end_keys`] has not revoked yet.
    pub fn has_key_to_end(&self, now: WallTime) -> bool {
        now.unix_millis() >= self.next_key_end.load(Ordering::Relaxed)
    }

    /// Revokes the tokens of the keys whose end has come. If no key has ended since the last call, takes no lock; if none will
    /// end, it does not read the clock.
    pub fn end_keys(&self) {
        if self.next_key_end.load(Ordering::Relaxed) == NEVER.unix_millis() {
            return;
        }
        let now = self.clock.now();
        if !self.has_key_to_end(now) {
            return;
        }
        let mut list = self.list.write();
        if list.end_keys(now) {
            self.next_key_end.store(list.next_key_end().unix_millis(), Ordering::Relaxed);
            self.state.fetch_add(2, Ordering::Release);
        }
    }

    /// Learns the time of the wall clock at each tick of a hub. If the clock has been set back, has the hubs check their sessions for
    /// revocations that had expired before and are in force again.
    pub fn note_time(&self, now: WallTime) {
        let is_set_back = |before: i64| now.saturating_add(CLOCK_STEP).unix_millis() < before;
        if !is_set_back(self.latest_time.fetch_max(now.unix_millis(), Ordering::Relaxed)) {
            return;
        }
        let mut list = self.list.write();
        let before = self.latest_time.load(Ordering::Relaxed);
        // Otherwise another hub has noticed it meanwhile.
        if is_set_back(before) {
            self.latest_time.store(now.unix_millis(), Ordering::Relaxed);
            if list.set_clock_back(now, WallTime::from_unix_millis(before)) {
                self.state.fetch_add(2, Ordering::Release);
            }
        }
    }

    /// Replaces the prefixes of users, and revokes the tokens of keys whose users belong to other keys now.
    pub fn set_user_prefixes(&self, prefixes: UserPrefixes) {
        let mut list = self.list.write();
        list.set_user_prefixes(prefixes);
        self.state.fetch_add(2, Ordering::Release);
    }

    /// Returns whether a token is revoked.
    pub fn is_revoked(&self, user: &str, token: &TokenIdentity) -> bool {
        !self.is_empty() && self.list.read().is_revoked(user, token, self.clock.now())
    }

    /// Returns whether a token is revoked because its key has been removed or has ended, or may not name its user.
    pub fn has_revoked_key(&self, user: &str, token: &TokenIdentity) -> bool {
        !self.is_empty() && self.list.read().has_revoked_key(user, token, self.clock.now())
    }

    /// Returns whether there is a revocation of this target.
    pub fn has(&self, target: &RevocationTarget) -> bool {
        self.list.read().find(target, self.clock.now()).is_some()
    }

    /// Returns the revocation of this target, if it means the token.
    pub fn entry(&self, user: &str, token: &TokenIdentity, target: &RevocationTarget) -> Option<Revocation> {
        self.list.read().entry(user, token, target, self.clock.now()).cloned()
    }

    /// Returns the revocation that means a token for the longest time.
    pub fn longest_entry(&self, user: &str, token: &TokenIdentity) -> Option<Revocation> {
        self.list.read().longest_entry(user, token, self.clock.now()).cloned()
    }

    /// Returns the earliest time at which a token like this one may be issued without being revoked; `None` if it may be now, and
    /// [`NEVER`] if it may not before a revocation has expired.
    pub fn revoked_until(&self, user: &str, token: &TokenIdentity) -> Option<WallTime> {
        self.list.read().revoked_until(user, token, self.clock.now())
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

    /// Notes that the list of a new instance has to be loaded first: until [`Self::note_loaded`], the instance does not know which tokens are revoked.
    pub fn expect_list(&self) {
        self.is_loaded.store(false, Ordering::Release);
    }

    /// Notes that the list has been loaded, for the first time or again.
    pub fn note_loaded(&self) {
        self.is_loaded.store(true, Ordering::Release);
    }

    /// Returns whether the list has been loaded since the start.
    pub fn is_loaded(&self) -> bool {
        self.is_loaded.load(Ordering::Acquire)
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

/// Returns the time before which every token was issued that was issued until a time: `iat` counts whole seconds.
fn after_second_of(time: WallTime) -> WallTime {
    WallTime::from_unix_seconds(time.unix_seconds().saturating_add(1))
}

#[cfg(test)]
mod tests;
