//! Remembers the subscriptions that the server API has given to users, for clients that reconnect: a client names in `connect`
//! the subscriptions that it had, and gets these again. One table for all workers of this instance.
//!
//! Every instance sees every control, in the order of the broker, and so keeps the same grants, also of users whose sessions are
//! elsewhere. But only the instance with a user's session knows when its token ends. And an instance to which the broker has
//! delivered nothing for a while may have missed an `unsubscribe`: it forgets all grants. So a grant may be missing, and is
//! never kept against the API.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

use super::ServerApiSubscription;
use crate::{
    broker::{Control, ControlAction},
    channel::Channel,
    clock::{Clock, MonotonicTime, NEVER, WallTime},
    config::Config,
    protocol::may_reconnect,
};

/// Bytes that a grant counts for `limits.api_grant_bytes` in addition to its texts.
const OVERHEAD_BYTES: usize = 256;

/// The subscriptions that the server API has given to users.
pub struct ApiGrants {
    table: Mutex<GrantTable>,
    clock: Clock,
}

impl ApiGrants {
    /// Creates the table, which is empty.
    pub fn new(config: &Config, clock: Clock) -> Arc<Self> {
        let table = GrantTable {
            max_bytes: config.limits.api_grant_bytes,
            max_per_user: config.limits.channels_per_session,
            max_age: config.auth.max_ttl,
            ..GrantTable::default()
        };
        Arc::new(Self { table: Mutex::new(table), clock })
    }

    /// Changes how many subscriptions are kept for a user (`limits.channels_per_session`). Those above a lower limit stay until
    /// they are replaced.
    pub fn set_max_per_user(&self, max_per_user: usize) {
        self.table.lock().max_per_user = max_per_user;
    }

    /// Keeps or forgets what a control gives or takes, and hands it to the hubs before another control is applied: a user cannot
    /// keep here what an `unsubscribe` or a `disconnect` has ended there.
    pub(super) fn apply(&self, control: &Control, hand_to_hubs: impl FnOnce()) {
        let mut table = self.table.lock();
        match &control.action {
            // What is given to one connection ends with it: another one cannot prove that it is the same client.
            ControlAction::Subscribe { .. } if control.client.is_some() => {}
            ControlAction::Subscribe { .. } => {
                if let Some(subscription) = ServerApiSubscription::from_action(&control.action) {
                    let without_position = ServerApiSubscription { since: None, ..subscription };
                    table.insert(&control.user, without_position, self.clock.monotonic_now());
                }
            }
            ControlAction::Unsubscribe { channel } => table.remove(&control.user, channel),
            // A client that is to stay away gets nothing back, unless other connections of its user stay.
            ControlAction::Disconnect { code, .. } if !may_reconnect(*code) && control.is_for_all_sessions() => {
                table.remove_user(&control.user);
            }
            ControlAction::Disconnect { .. } | ControlAction::Refresh { .. } => {}
        }
        hand_to_hubs();
    }

    /// Forgets the grants of a user, because a control for it could not be applied.
    pub(super) fn forget_user(&self, user: &str) {
        self.table.lock().remove_user(user);
    }

    /// Forgets everything, because controls may have been lost.
    pub(super) fn forget_all(&self) {
        self.table.lock().clear();
    }

    /// Returns what the server API has given a user in a channel, if it is still valid.
    pub fn find(&self, user: &str, channel: &Channel) -> Option<ServerApiSubscription> {
        self.table.lock().find(user, channel, self.clock.now(), self.clock.monotonic_now()).cloned()
    }

    /// Notes that a session with a token that ends at `token_end` has a subscription of the server API.
    pub fn note_session(&self, user: &str, channel: &Channel, token_end: WallTime) {
        let mut table = self.table.lock();
        let grants = table.of_user(user).filter(|grant| grant.subscription.channel == *channel);
        grants.for_each(|grant| grant.extend(token_end));
    }

    /// Notes that a session of the user has a newer token: its subscriptions last until that one ends.
    pub fn note_refresh(&self, user: &str, token_end: WallTime) {
        let mut table = self.table.lock();
        table.of_user(user).filter(|grant| grant.token_end.is_some()).for_each(|grant| grant.extend(token_end));
    }
}

/// A grant and how long it is kept.
struct Grant {
    /// Numbers grow: the smallest is the oldest.
    number: u64,
    subscription: ServerApiSubscription,
    /// When the last token ends with which a session here has had the subscription. `None`: no session here has had it.
    token_end: Option<WallTime>,
    /// When every token has ended that was valid when the grant was made: counts if no token is known.
    kept_until: MonotonicTime,
}

impl Grant {
    fn extend(&mut self, token_end: WallTime) {
        self.token_end = Some(self.token_end.map_or(token_end, |known| known.max(token_end)));
    }

    fn is_valid(&self, now: WallTime, monotonic_now: MonotonicTime) -> bool {
        let token_lives = self.token_end.map_or(monotonic_now < self.kept_until, |end| now < end);
        token_lives && now < self.subscription.expires_at.unwrap_or(NEVER)
    }

    fn cost_bytes(&self, user: &str) -> usize {
        let ServerApiSubscription { channel, info, data, .. } = &self.subscription;
        let texts = [info, data].into_iter().flatten().map(bytes::Bytes::len).sum::<usize>();
        OVERHEAD_BYTES + 2 * user.len() + channel.as_str().len() + texts
    }
}

/// The grants of all users, limited in bytes and per user; the oldest leave first. Pure.
#[derive(Default)]
struct GrantTable {
    by_user: HashMap<String, Vec<Grant>>,
    /// The user of each grant, by its number.
    users: BTreeMap<u64, String>,
    next_number: u64,
    bytes: usize,
    max_bytes: usize,
    max_per_user: usize,
    max_age: Duration,
}

impl GrantTable {
    fn insert(&mut self, user: &str, subscription: ServerApiSubscription, now: MonotonicTime) {
        self.remove(user, subscription.channel.as_str());
        let number = self.next_number;
        self.next_number += 1;
        let kept_until = now.saturating_add(self.max_age);
        let grant = Grant { number, subscription, token_end: None, kept_until };
        self.bytes += grant.cost_bytes(user);
        self.users.insert(number, user.to_owned());
        let grants = self.by_user.entry(user.to_owned()).or_default();
        grants.push(grant);
        if grants.len() > self.max_per_user {
            let oldest = grants[0].number;
            self.remove_number(user, oldest);
        }
        while self.bytes > self.max_bytes {
            let Some((number, user)) = self.users.iter().next().map(|(number, user)| (*number, user.clone())) else {
                return;
            };
            self.remove_number(&user, number);
        }
    }

    fn find(
        &self,
        user: &str,
        channel: &Channel,
        now: WallTime,
        monotonic_now: MonotonicTime,
    ) -> Option<&ServerApiSubscription> {
        let mut grants = self.by_user.get(user)?.iter();
        let grant = grants.find(|grant| grant.subscription.channel == *channel)?;
        grant.is_valid(now, monotonic_now).then_some(&grant.subscription)
    }

    fn of_user(&mut self, user: &str) -> impl Iterator<Item = &mut Grant> {
        self.by_user.get_mut(user).into_iter().flatten()
    }

    fn remove(&mut self, user: &str, channel: &str) {
        let mut grants = self.by_user.get(user).into_iter().flatten();
        if let Some(number) =
            grants.find(|grant| grant.subscription.channel.as_str() == channel).map(|grant| grant.number)
        {
            self.remove_number(user, number);
        }
    }

    fn remove_number(&mut self, user: &str, number: u64) {
        self.users.remove(&number);
        let Some(grants) = self.by_user.get_mut(user) else { return };
        for removed in grants.extract_if(.., |grant| grant.number == number) {
            self.bytes -= removed.cost_bytes(user);
        }
        if grants.is_empty() {
            self.by_user.remove(user);
        }
    }

    fn remove_user(&mut self, user: &str) {
        for grant in self.by_user.remove(user).into_iter().flatten() {
            self.users.remove(&grant.number);
            self.bytes -= grant.cost_bytes(user);
        }
    }

    fn clear(&mut self) {
        self.by_user = HashMap::new();
        self.users = BTreeMap::new();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests;
