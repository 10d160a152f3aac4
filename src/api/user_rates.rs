//! Applies `limits.publications_per_second` to each user over REST: on this instance, and if the broker connects instances, on
//! all of them together.
//!
//! No publication waits for the broker. An instance lets a user publish by its own limit, tells the others ten times a second
//! what its users have published, and learns how much their rates are exhausted on all instances. So what a user publishes at
//! the same moment on several instances may be above the burst; then the user waits for as long as that takes at the rate.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::sleep;

use crate::{
    broker::{Broker, RateCharge, SharedLimits},
    rate_limit::{Gcra, KeyedRateLimiter},
    revocation::user_tag,
};

/// How often an instance tells the others what its users have published.
const SYNC_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum users with publications in one interval. Above it: those of the others count on this instance only.
const MAX_USERS: usize = 100_000;

/// The rates of all users.
pub struct UserRates {
    own: KeyedRateLimiter,
    /// `None`: there is no limit, or only one instance.
    shared: Option<SharedRates>,
}

struct SharedRates {
    limits: Arc<dyn SharedLimits>,
    rate: Gcra,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What users have published since the others were told.
    published: HashMap<Arc<str>, u32>,
    /// A task tells the others, until there is nothing to tell.
    is_syncing: bool,
}

impl UserRates {
    /// Creates a limit of `per_second` publications of each user, with bursts of twice as many. 0: no limit.
    pub fn new(per_second: u32, broker: &dyn Broker) -> Arc<Self> {
        let own = KeyedRateLimiter::new(per_second, per_second.saturating_mul(2));
        let shared = own.gcra().zip(broker.shared_limits());
        let shared = shared.map(|(rate, limits)| SharedRates { limits, rate, state: Mutex::default() });
        Arc::new(Self { own, shared })
    }

    /// Charges a publication to a user.
    ///
    /// # Errors
    /// How long the user has to wait. The publication is not charged then.
    pub(super) fn charge(self: &Arc<Self>, user: &Arc<str>) -> Result<(), Duration> {
        self.own.charge(&**user)?;
        if let Some(shared) = &self.shared
            && shared.note(user)
        {
            actix_rt::spawn(self.clone().sync());
        }
        Ok(())
    }

    /// Tells the others what users publish, until there is nothing to tell.
    async fn sync(self: Arc<Self>) {
        let Some(shared) = &self.shared else { return };
        loop {
            sleep(SYNC_INTERVAL).await;
            let Some(published) = shared.take() else { return };
            let charges =
                published.iter().map(|(user, events)| RateCharge { user_tag: user_tag(user), events: *events });
            match shared.limits.charge_rates(charges.collect(), shared.rate).await {
                Ok(left) => {
                    for (user, left) in published.keys().zip(left) {
                        match left {
                            Ok(left) => self.own.exhaust(&**user, left),
                            // The own limit holds.
                            Err(error) => log::debug!("rates are not shared error={:?}", error.to_string()),
                        }
                    }
                }
                // The own limit holds.
                Err(error) => log::debug!("rates are not shared error={:?}", error.to_string()),
            }
        }
    }
}

impl SharedRates {
    /// Notes a publication. Returns whether the caller has to start a task that tells the others.
    fn note(&self, user: &Arc<str>) -> bool {
        let mut state = self.state.lock();
        let has_room = state.published.len() < MAX_USERS;
        match state.published.get_mut(user) {
            Some(events) => *events = events.saturating_add(1),
            None if has_room => _ = state.published.insert(user.clone(), 1),
            None => {}
        }
        !std::mem::replace(&mut state.is_syncing, true)
    }

    /// Takes what users have published; `None`: nothing, and the task ends.
    fn take(&self) -> Option<HashMap<Arc<str>, u32>> {
        let mut state = self.state.lock();
        state.is_syncing = !state.published.is_empty();
        state.is_syncing.then(|| std::mem::take(&mut state.published))
    }
}
