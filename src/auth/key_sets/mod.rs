//! The JWK sets of identity providers, fetched over https by a task for each: from a configured URL, or from the one that the
//! provider's OpenID Connect Discovery names. No token and no document leads the hub anywhere else: redirects are not followed, and
//! private addresses are refused unless the configuration allows them.
//!
//! [`schedule`] decides when a set is fetched, and what a token with an unknown `kid` gets meanwhile. It is pure.

mod client;
mod discovery;
mod schedule;

use std::{
    collections::{HashMap, hash_map::Entry},
    path::Path,
    sync::{Arc, OnceLock, Weak},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use jsonwebtoken::Algorithm;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, futures::Notified},
    time::{sleep_until, timeout},
};
use tokio_rustls::TlsConnector;

use self::{
    client::{FetchError, HttpsClient, HttpsUrl},
    schedule::{Schedule, UnknownKid},
};
use super::{
    KeyError,
    key::{InheritedSet, KeyChange, KeyRing, KeySetDocument, SetNumber, read_fetched_set},
};
use crate::{
    certificate,
    clock::NEVER,
    config::{AuthConfig, Config, KeyConfig, KeySetsConfig, KeySource, url_without_secrets},
    metrics::Metrics,
    revocation::{KeyNumber, Revocations},
};

/// All sets that the configuration names.
pub struct KeySets {
    /// Of the start. What of it counts for all sets changes with a restart only.
    auth: AuthConfig,
    sets: ArcSwap<Vec<Arc<KeySet>>>,
    ring: Arc<KeyRing>,
    /// A fetch has ended.
    fetched: Notify,
    created: Instant,
    /// Set when the sets begin to be fetched.
    metrics: OnceLock<Arc<Metrics>>,
}

/// One set.
struct KeySet {
    number: SetNumber,
    configured: KeyConfig,
    location: Location,
    client: HttpsClient,
    /// Of its tokens.
    issuer: String,
    schedule: Mutex<Schedule>,
    /// Why keys of the latest document are skipped.
    skipped: Mutex<Vec<String>>,
    /// The time of the next fetch has changed.
    rescheduled: Notify,
}

/// Where a set is.
#[derive(PartialEq)]
enum Location {
    /// At this URL.
    Set(HttpsUrl),
    /// At the `jwks_uri` in the configuration of the issuer, which is at `url`.
    Discovery { url: HttpsUrl, issuer: String },
}

impl KeySet {
    /// Creates the set of an entry; `None` if its keys are not fetched.
    fn from_config<'a>(
        auth: &'a AuthConfig,
        configured: &'a KeyConfig,
        clients: &mut TlsClients<'a>,
        now: Instant,
    ) -> Result<Option<Self>, KeyError> {
        let (url, location) = match configured.source() {
            Some(KeySource::SetUrl(url)) => (url, HttpsUrl::parse(url).map(Location::Set)),
            Some(KeySource::Issuer(issuer)) => {
                let discovery = |url| Location::Discovery { url, issuer: issuer.to_owned() };
                (issuer, discovery::url_of(issuer).map(discovery))
            }
            _ => return Ok(None),
        };
        let fault = |problem| KeyError { key: format!("auth.keys ({})", url_without_secrets(url)), problem };
        let location = location.map_err(fault)?;
        let issuer = auth.rules(Some(configured)).issuer.ok_or_else(|| fault(NO_ISSUER.to_owned()))?;
        let key = match &configured.ca {
            Some(_) => format!("auth.keys ({}): ca", url_without_secrets(url)),
            None => "auth.key_sets.ca".to_owned(),
        };
        let tls = clients.trusting(auth.key_sets.ca_of(configured)).map_err(|problem| KeyError { key, problem })?;
        Ok(Some(Self {
            number: SetNumber::unique(),
            configured: configured.clone(),
            location,
            client: HttpsClient::new(&auth.key_sets, configured, tls),
            issuer,
            schedule: Mutex::new(Schedule::new(now)),
            skipped: Mutex::default(),
            rescheduled: Notify::new(),
        }))
    }

    /// Returns whether the keys of the other set are those of this one, perhaps with other rules.
    fn has_keys_of(&self, other: &Self) -> bool {
        self.location == other.location
            && self.issuer == other.issuer
            && self.configured.algorithm == other.configured.algorithm
    }

    /// Returns whether the servers of the other set were trusted as those of this one are.
    fn trusts_as(&self, other: &Self, settings: &KeySetsConfig) -> bool {
        let trusted = |set: &Self| {
            let (ca, networks) = (settings.ca_of(&set.configured), settings.private_networks_of(&set.configured));
            (ca.map(Path::to_owned), networks.to_vec())
        };
        trusted(self) == trusted(other)
    }

    /// Returns whether the set may have a key for the algorithm. Everyone can fetch the set, so it has no secrets.
    fn may_have_key_for(&self, algorithm: Algorithm) -> bool {
        let is_hmac = matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512);
        !is_hmac && self.configured.algorithm.is_none_or(|configured| configured == algorithm)
    }

    /// Logs why keys are skipped, unless the document before had them, too.
    fn log_skipped(&self, skipped: Vec<String>) {
        let before = std::mem::replace(&mut *self.skipped.lock(), skipped.clone());
        for reason in skipped.iter().filter(|reason| !before.contains(reason)) {
            log::warn!("skipped key of a JWK set url=\"{}\" {reason}", self.url());
        }
    }

    /// Returns what the set is called in log lines.
    fn url(&self) -> &HttpsUrl {
        match &self.location {
            Location::Set(url) | Location::Discovery { url, .. } => url,
        }
    }
}

/// The remedy for a set without an issuer.
const NO_ISSUER: &str = "has no issuer, so tokens of whomever the keys belong to would be accepted, whatever their iss; set issuer to \
    the iss of the provider's tokens";

/// TLS clients by the file with the certificate authorities that they trust. Providers with the same ones share one.
#[derive(Default)]
struct TlsClients<'a>(HashMap<Option<&'a Path>, TlsConnector>);

impl<'a> TlsClients<'a> {
    fn trusting(&mut self, ca: Option<&'a Path>) -> Result<TlsConnector, String> {
        match self.0.entry(ca) {
            Entry::Occupied(known) => Ok(known.get().clone()),
            Entry::Vacant(new) => {
                let tls = certificate::tls_connector(ca).map_err(|error| error.to_string())?;
                Ok(new.insert(tls).clone())
            }
        }
    }
}

impl KeySets {
    /// Returns the URLs of the configuration, checked.
    ///
    /// # Errors
    /// [`KeyError`] for a URL that is not https or is malformed, for a set without an issuer, and for the certificate authorities.
    pub(super) fn read(
        config: &Config,
        revocations: Option<Arc<Revocations>>,
    ) -> Result<(Self, Arc<KeyRing>), KeyError> {
        let created = Instant::now();
        let sets = Self::sets_of(&config.auth, created)?;
        let numbers: Vec<SetNumber> = sets.iter().map(|set| set.number).collect();
        let ring = Arc::new(KeyRing::read(config, &numbers, revocations)?);
        let (auth, sets) = (config.auth.clone(), ArcSwap::from_pointee(sets.into_iter().map(Arc::new).collect()));
        let (fetched, metrics) = (Notify::new(), OnceLock::new());
        Ok((Self { auth, sets, ring: ring.clone(), fetched, created, metrics }, ring))
    }

    fn sets_of(auth: &AuthConfig, now: Instant) -> Result<Vec<KeySet>, KeyError> {
        let (mut sets, mut clients) = (Vec::new(), TlsClients::default());
        for configured in &auth.keys {
            sets.extend(KeySet::from_config(auth, configured, &mut clients, now)?);
        }
        Ok(sets)
    }

    /// Replaces sets and keys by those of another configuration. A set whose settings have not changed goes on; one that is at the
    /// same place keeps its keys, and is fetched again at once. If it is fetched from other servers now, because `ca` or
    /// `private_networks` has changed, it keeps its keys for `startup_timeout` at most, and only those that the first fetch confirms.
    ///
    /// # Errors
    /// [`KeyError`]. Nothing has changed then.
    pub(super) fn replace(self: &Arc<Self>, config: &Config) -> Result<KeyChange, KeyError> {
        let now = Instant::now();
        let mut before: Vec<Arc<KeySet>> = self.sets.load().to_vec();
        let mut take = |is_it: &dyn Fn(&KeySet) -> bool| {
            let at = before.iter().position(|set| is_it(set));
            at.map(|at| before.swap_remove(at))
        };
        // Those that have not changed first, so that none of them is taken for another one at the same place.
        let mut read = Vec::new();
        for set in Self::sets_of(&config.auth, now)? {
            let unchanged = take(&|old| old.configured == set.configured);
            read.push((unchanged, set));
        }
        let (mut sets, mut inherited, mut new) = (Vec::new(), Vec::new(), Vec::new());
        let deadline = now + self.auth.key_sets.startup_timeout;
        for (unchanged, read) in read {
            let mut confirm_by = None;
            let (old, set) = match unchanged {
                Some(set) => (Some(set.clone()), set),
                None => {
                    let old = take(&|set| read.has_keys_of(set));
                    match &old {
                        Some(old) if read.trusts_as(old, &self.auth.key_sets) => {
                            *read.schedule.lock() = old.schedule.lock().fetching_at(now);
                        }
                        Some(_) => confirm_by = Some(deadline),
                        None => {}
                    }
                    let set = Arc::new(read);
                    new.push(Arc::downgrade(&set));
                    (old, set)
                }
            };
            inherited.push(InheritedSet {
                number: set.number,
                before: old.map(|old| old.number),
                rules: self.auth.rules(Some(&set.configured)),
                not_after: set.configured.not_after.unwrap_or(NEVER),
                confirm_by,
            });
            sets.push(set);
        }
        let has_unconfirmed = inherited.iter().any(|set| set.confirm_by.is_some());
        let change = self.ring.replace_settings(config, inherited)?;
        self.sets.store(Arc::new(sets));
        if let Some(metrics) = self.metrics.get() {
            self.report(metrics);
            new.into_iter().for_each(|set| self.keep_fetched(set, metrics));
            if has_unconfirmed {
                actix_rt::spawn(drop_unconfirmed_at(deadline, Arc::downgrade(self)));
            }
        }
        Ok(change)
    }

    /// Drops the keys that had to be confirmed by now.
    fn drop_unconfirmed(&self, now: Instant) {
        for set in self.sets.load().iter() {
            // Locked as for a fetch.
            let _schedule = set.schedule.lock();
            let KeyChange { removed, .. } = self.ring.drop_unconfirmed(set.number, now);
            if removed > 0 {
                log::error!(
                    "dropped keys of a JWK set that was not fetched with its new settings in time url=\"{}\" removed={removed}",
                    set.url()
                );
            }
        }
    }

    /// Starts a task for each set in the current actix system. The tasks end with the last reference to the sets.
    pub fn start(self: &Arc<Self>, metrics: &Arc<Metrics>) {
        let metrics = self.metrics.get_or_init(|| metrics.clone());
        self.report(metrics);
        self.sets.load().iter().for_each(|set| self.keep_fetched(Arc::downgrade(set), metrics));
    }

    fn keep_fetched(self: &Arc<Self>, set: Weak<KeySet>, metrics: &Arc<Metrics>) {
        actix_rt::spawn(keep_fetched(Arc::downgrade(self), set, metrics.clone()));
    }

    /// Fetches every set once.
    ///
    /// # Errors
    /// The sets that could not be fetched, each with its error.
    pub async fn fetch_all(&self) -> Result<(), String> {
        let mut errors = Vec::new();
        for set in self.sets.load_full().iter() {
            if let Err(error) = self.fetch(set).await {
                errors.push(format!("{}: {error}", set.url()));
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
    }

    /// Returns the ids of the keys that the hub would use of a document. For fuzzing only.
    ///
    /// # Errors
    /// What is wrong with the document.
    pub fn usable_kids(config: &Config, document: &str) -> Result<Vec<Option<String>>, String> {
        let entry = KeyConfig { jwks_url: Some("https://localhost".to_owned()), ..KeyConfig::default() };
        let KeySetDocument { keys, .. } = read_fetched_set(&config.auth, &entry, document)?;
        Ok(keys.into_iter().map(|key| key.id).collect())
    }

    /// Returns where the configuration of an issuer says that its keys are. For fuzzing only.
    ///
    /// # Errors
    /// What is wrong with the document.
    pub fn discovered_url(document: &str, issuer: &str) -> Result<String, String> {
        discovery::jwks_url(document, issuer).map(|url| url.to_string())
    }

    /// Returns why this instance should not get requests; `None` if it should. One that starts waits for the keys of all providers,
    /// so that a rolling update stops at an instance that cannot fetch them; up to `startup_timeout`, so that one dead provider does
    /// not keep out the users of the others. Later only the loss of all keys counts: other instances would be no better.
    pub fn problem(&self) -> Option<&'static str> {
        let is_starting = self.created.elapsed() < self.auth.key_sets.startup_timeout;
        let sets = self.sets.load();
        let is_waiting = is_starting && !sets.iter().all(|set| set.schedule.lock().was_fetched());
        let has_no_key = !sets.is_empty() && self.ring.current().is_empty();
        (is_waiting || has_no_key)
            .then_some("the keys of an identity provider could not be fetched; see the log of this instance")
    }

    /// Returns whether a fetch may bring the key of a refused token, and has the sets fetched that may have it by now. The issuer is
    /// unverified: it only chooses among the configured sets. `tried`: the key that has refused the token; the key may be another
    /// one, since each issuer chooses its own `kid`s.
    pub(super) fn may_bring(
        &self,
        kid: Option<&str>,
        issuer: Option<&str>,
        algorithm: Algorithm,
        tried: Option<KeyNumber>,
    ) -> bool {
        let (now, settings) = (Instant::now(), &self.auth.key_sets);
        let mut is_pending = false;
        let is_meant = |set: &&Arc<KeySet>| Some(&*set.issuer) == issuer && set.may_have_key_for(algorithm);
        for set in self.sets.load().iter().filter(is_meant) {
            let mut schedule = set.schedule.lock();
            let next_fetch = schedule.next_fetch();
            is_pending |= schedule.note_unknown(kid, now, settings) == UnknownKid::Pending;
            if schedule.next_fetch() != next_fetch {
                set.rescheduled.notify_one();
            }
        }
        // A fetch may have put the key into force since the token was compared.
        let is_there = || {
            let current = self.ring.current();
            current.select(kid, || issuer.map(str::to_owned)).is_some_and(|key| Some(key.number) != tried)
        };
        is_pending || is_there()
    }

    /// Returns a future that completes when the next fetch of a set has ended, also if it does so before the future is awaited.
    pub fn fetched(&self) -> Notified<'_> {
        self.fetched.notified()
    }

    /// Sets the gauge of the sets whose keys are not there.
    fn report(&self, metrics: &Metrics) {
        let now = Instant::now();
        let is_missing = |set: &&Arc<KeySet>| !set.schedule.lock().is_current(now, self.auth.key_sets.stale);
        let missing = self.sets.load().iter().filter(is_missing).count();
        metrics.key_sets_missing.set(i64::try_from(missing).unwrap_or(i64::MAX));
    }

    /// Fetches a set, and puts its keys into force.
    async fn fetch(&self, set: &KeySet) -> Result<KeyChange, FetchError> {
        let settings = &self.auth.key_sets;
        set.schedule.lock().begin(Instant::now());
        let fetched = self.fetch_keys(set).await;
        let now = Instant::now();
        let put_into_force = || {
            // Locked until the keys are in force: a token that does not find its key waits for them.
            let mut schedule = set.schedule.lock();
            match fetched {
                Ok(KeySetDocument { keys, skipped }) => {
                    let change = self.ring.replace_fetched(set.number, keys);
                    schedule.succeed(now, change.absent > 0, settings);
                    set.log_skipped(skipped);
                    Ok(change)
                }
                Err(error) => {
                    schedule.fail(now, settings);
                    if !schedule.is_current(now, settings.stale) {
                        self.ring.suspend_fetched(set.number);
                    }
                    Err(error)
                }
            }
        };
        let change = put_into_force();
        self.fetched.notify_waiters();
        change
    }

    async fn fetch_keys(&self, set: &KeySet) -> Result<KeySetDocument, FetchError> {
        let settings = &self.auth.key_sets;
        let discovered;
        let url = match &set.location {
            Location::Set(url) => url,
            Location::Discovery { url, issuer } => {
                let document = set.client.get(url, settings).await?;
                discovered = discovery::jwks_url(&document, issuer).map_err(FetchError::Malformed)?;
                &discovered
            }
        };
        let document = set.client.get(url, settings).await?;
        read_fetched_set(&self.auth, &set.configured, &document).map_err(FetchError::Malformed)
    }
}

/// Fetches a set again and again, as its schedule says, until the configuration has it no longer. Logs changes only.
async fn keep_fetched(sets: Weak<KeySets>, set: Weak<KeySet>, metrics: Arc<Metrics>) {
    let mut last_error: Option<String> = None;
    while let (Some(sets), Some(set)) = (sets.upgrade(), set.upgrade()) {
        let next_fetch = set.schedule.lock().next_fetch();
        let wait = next_fetch.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            // Short, so that the task ends soon after its server.
            let _ = timeout(wait.min(MAX_SLEEP), set.rescheduled.notified()).await;
            continue;
        }
        let url = set.url();
        match sets.fetch(&set).await {
            Ok(KeyChange { added, absent, removed, .. }) => {
                metrics.count_key_fetch("fetched");
                if added + absent + removed > 0 || last_error.is_some() {
                    log::info!("fetched JWK set url=\"{url}\" added={added} absent={absent} removed={removed}");
                }
                last_error = None;
            }
            Err(error) => {
                metrics.count_key_fetch(error.outcome());
                let text = error.to_string();
                if last_error.as_ref() != Some(&text) {
                    let state = if sets.ring.has_keys_of(set.number) { "keeping its keys" } else { "no keys yet" };
                    log::error!("cannot fetch JWK set, {state} url=\"{url}\" error={text:?}");
                }
                last_error = Some(text);
            }
        }
        sets.report(&metrics);
    }
}

/// Drops the keys that are not confirmed by a deadline.
async fn drop_unconfirmed_at(deadline: Instant, sets: Weak<KeySets>) {
    sleep_until(deadline.into()).await;
    if let Some(sets) = sets.upgrade() {
        sets.drop_unconfirmed(deadline);
    }
}

/// Maximum time for which a task does not look whether its server still exists.
const MAX_SLEEP: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
