//! The JWK sets of identity providers, fetched over https by a task for each: from a configured URL, or from the one that the
//! provider's OpenID Connect Discovery names. No token and no document leads the hub anywhere else: redirects are not followed, and
//! private addresses are refused unless the configuration allows them.
//!
//! [`schedule`] decides when a set is fetched, and what a token with an unknown `kid` gets meanwhile. It is pure.

mod address;
mod client;
mod discovery;
mod schedule;

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::timeout};

pub use self::client::FetchError;
use self::{
    client::{HttpsClient, HttpsUrl},
    schedule::{Schedule, UnknownKid},
};
use super::{
    KeyError, TokenError,
    key::{KeyChange, KeyRing, VerificationKey, read_fetched_set},
};
use crate::{
    config::{AuthConfig, Config, KeyConfig, KeySource, url_without_secrets},
    metrics::Metrics,
    revocation::Revocations,
};

/// All sets that the configuration names.
pub struct KeySets {
    auth: AuthConfig,
    client: Option<HttpsClient>,
    sets: Vec<KeySet>,
    ring: Arc<KeyRing>,
}

/// One set.
struct KeySet {
    configured: KeyConfig,
    location: Location,
    /// Of its tokens; `None` if any.
    issuer: Option<String>,
    schedule: Mutex<Schedule>,
    /// The time of the next fetch has changed.
    rescheduled: Notify,
}

/// Where a set is.
enum Location {
    /// At this URL.
    Set(HttpsUrl),
    /// At the `jwks_uri` in the configuration of the issuer, which is at `url`.
    Discovery { url: HttpsUrl, issuer: String },
}

impl KeySet {
    /// Creates the set of an entry; `None` if its keys are not fetched.
    fn from_config(auth: &AuthConfig, configured: &KeyConfig, now: Instant) -> Result<Option<Self>, KeyError> {
        let fault = |url, problem| KeyError { key: format!("auth.keys ({})", url_without_secrets(url)), problem };
        let location = match configured.source() {
            Some(KeySource::SetUrl(url)) => {
                HttpsUrl::parse(url).map(Location::Set).map_err(|problem| fault(url, problem))?
            }
            Some(KeySource::Issuer(issuer)) => {
                let url = discovery::url_of(issuer).map_err(|problem| fault(issuer, problem))?;
                Location::Discovery { url, issuer: issuer.to_owned() }
            }
            _ => return Ok(None),
        };
        Ok(Some(Self {
            configured: configured.clone(),
            location,
            issuer: auth.rules(Some(configured)).issuer,
            schedule: Mutex::new(Schedule::new(now)),
            rescheduled: Notify::new(),
        }))
    }

    /// Returns what the set is called in log lines.
    fn url(&self) -> &HttpsUrl {
        match &self.location {
            Location::Set(url) | Location::Discovery { url, .. } => url,
        }
    }
}

impl KeySets {
    /// Returns the URLs of the configuration, checked.
    ///
    /// # Errors
    /// [`KeyError`] for a URL that is not https or is malformed, and for `auth.key_sets.ca`.
    pub(super) fn read(
        config: &Config,
        revocations: Option<Arc<Revocations>>,
    ) -> Result<(Self, Arc<KeyRing>), KeyError> {
        let auth = &config.auth;
        let now = Instant::now();
        let mut sets = Vec::new();
        for configured in &auth.keys {
            sets.extend(KeySet::from_config(auth, configured, now)?);
        }
        let client = if sets.is_empty() { None } else { Some(HttpsClient::new(&auth.key_sets)?) };
        let ring = Arc::new(KeyRing::read(config, sets.len(), revocations)?);
        Ok((Self { auth: auth.clone(), client, sets, ring: ring.clone() }, ring))
    }

    /// Starts a task for each set in the current actix system. The tasks end with the last reference to the sets.
    pub fn start(self: &Arc<Self>, metrics: &Arc<Metrics>) {
        for index in 0..self.sets.len() {
            actix_rt::spawn(keep_fetched(Arc::downgrade(self), index, metrics.clone()));
        }
    }

    /// Fetches every set once.
    ///
    /// # Errors
    /// The sets that could not be fetched, each with its error.
    pub async fn fetch_all(&self) -> Result<(), String> {
        let mut errors = Vec::new();
        for index in 0..self.sets.len() {
            if let Err(error) = self.fetch(index).await {
                errors.push(format!("{}: {error}", self.sets[index].url()));
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
        let keys = read_fetched_set(&config.auth, &entry, document, "fuzzing")?;
        Ok(keys.into_iter().map(|key| key.id).collect())
    }

    /// Returns where the configuration of an issuer says that its keys are. For fuzzing only.
    ///
    /// # Errors
    /// What is wrong with the document.
    pub fn discovered_url(document: &str, issuer: &str) -> Result<String, String> {
        discovery::jwks_url(document, issuer).map(|url| url.to_string())
    }

    /// Returns what prevents tokens from being verified; `None` if the keys of all sets are there.
    pub fn problem(&self) -> Option<&'static str> {
        let now = Instant::now();
        let is_current = |set: &KeySet| set.schedule.lock().is_current(now, self.auth.key_sets.stale);
        let is_missing = self.sets.iter().any(|set| !is_current(set));
        is_missing.then_some("the keys of an identity provider could not be fetched; see the log of this instance")
    }

    /// Returns why no key was found for a token, and has the sets fetched that may have the key by now. The issuer is unverified: it
    /// only chooses among the configured sets.
    pub(super) fn refuse_unknown(&self, kid: Option<&str>, issuer: Option<&str>) -> TokenError {
        let (now, settings) = (Instant::now(), &self.auth.key_sets);
        let mut is_pending = false;
        for set in self.sets.iter().filter(|set| set.issuer.is_none() || set.issuer.as_deref() == issuer) {
            let mut schedule = set.schedule.lock();
            let next_fetch = schedule.next_fetch();
            is_pending |= schedule.note_unknown(kid, now, settings) == UnknownKid::Pending;
            if schedule.next_fetch() != next_fetch {
                set.rescheduled.notify_one();
            }
        }
        // A fetch may have put the key into force since the token was compared.
        let is_there = || self.ring.current().select(kid, || issuer.map(str::to_owned)).is_some();
        if is_pending || is_there() { TokenError::KeyPending } else { TokenError::UnknownKey }
    }

    /// Fetches a set, and puts its keys into force.
    async fn fetch(&self, index: usize) -> Result<KeyChange, FetchError> {
        let (set, settings) = (&self.sets[index], &self.auth.key_sets);
        set.schedule.lock().begin(Instant::now());
        let fetched = self.fetch_keys(set).await;
        let now = Instant::now();
        let mut schedule = set.schedule.lock();
        match fetched {
            Ok(keys) => {
                schedule.succeed(now, settings);
                Ok(self.ring.replace_fetched(index, keys))
            }
            Err(error) => {
                schedule.fail(now, settings);
                if !schedule.is_current(now, settings.stale) {
                    self.ring.suspend_fetched(index);
                }
                Err(error)
            }
        }
    }

    async fn fetch_keys(&self, set: &KeySet) -> Result<Vec<VerificationKey>, FetchError> {
        let discovered;
        let url = match &set.location {
            Location::Set(url) => url,
            Location::Discovery { url, issuer } => {
                let document = self.fetch_document(url).await?;
                discovered = discovery::jwks_url(&document, issuer).map_err(FetchError::Malformed)?;
                &discovered
            }
        };
        let document = self.fetch_document(url).await?;
        read_fetched_set(&self.auth, &set.configured, &document, &url.to_string()).map_err(FetchError::Malformed)
    }

    async fn fetch_document(&self, url: &HttpsUrl) -> Result<String, FetchError> {
        let client = self.client.as_ref().ok_or(FetchError::TimedOut)?;
        let bytes = timeout(self.auth.key_sets.timeout, client.get(url)).await.map_err(|_| FetchError::TimedOut)??;
        String::from_utf8(bytes).map_err(|_| FetchError::Malformed("is not UTF-8".to_owned()))
    }
}

/// Fetches a set again and again, as its schedule says. Logs changes only.
async fn keep_fetched(sets: Weak<KeySets>, index: usize, metrics: Arc<Metrics>) {
    let mut last_error: Option<String> = None;
    while let Some(sets) = sets.upgrade() {
        let set = &sets.sets[index];
        let next_fetch = set.schedule.lock().next_fetch();
        let wait = next_fetch.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            // Short, so that the task ends soon after its server.
            let _ = timeout(wait.min(MAX_SLEEP), set.rescheduled.notified()).await;
            continue;
        }
        let url = set.url();
        match sets.fetch(index).await {
            Ok(KeyChange { added, retired }) => {
                metrics.count_key_fetch("fetched");
                if added + retired > 0 || last_error.is_some() {
                    log::info!("fetched JWK set url=\"{url}\" added={added} removed={retired}");
                }
                last_error = None;
            }
            Err(error) => {
                metrics.count_key_fetch(error.outcome());
                let text = error.to_string();
                if last_error.as_ref() != Some(&text) {
                    let state = if set.schedule.lock().was_fetched() { "keeping its keys" } else { "not ready" };
                    log::error!("cannot fetch JWK set, {state} url=\"{url}\" error={text:?}");
                }
                last_error = Some(text);
            }
        }
    }
}

/// Maximum time for which a task does not look whether its server still exists.
const MAX_SLEEP: Duration = Duration::from_secs(1);
