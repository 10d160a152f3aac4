//! The keys in force, which change while the hub runs: by reloads of the configuration and of their files, and by fetched JWK sets.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;

use super::{KeyError, VerificationKey, VerificationKeys};
use crate::{
    clock::WallTime,
    config::{AuthConfig, Config, KeyRules, Secret},
    revocation::{KeyInUse, KeyNumber, Revocations},
};

/// The keys in force. Verifying reads them without a lock.
pub(in crate::auth) struct KeyRing {
    current: ArcSwap<VerificationKeys>,
    sources: Mutex<KeySources>,
    /// The settings of the keys. Locked while the files are read and their keys put into force: what was read first must not
    /// replace what was read last.
    settings: Mutex<KeySettings>,
    /// End the sessions of removed keys.
    revocations: Option<Arc<Revocations>>,
}

/// The parts of the configuration that name the keys.
struct KeySettings {
    auth: AuthConfig,
    login_key: Secret,
}

impl KeySettings {
    fn of(config: &Config) -> Self {
        Self { auth: config.auth.clone(), login_key: config.login.key.clone() }
    }

    fn read_keys(&self) -> Result<Vec<VerificationKey>, KeyError> {
        VerificationKeys::read(&self.auth, &self.login_key)
    }
}

/// The number of a set that is fetched. No other set of the process has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::auth) struct SetNumber(u64);

impl SetNumber {
    /// Returns a number that was never returned before.
    pub(in crate::auth) fn unique() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed))
    }
}

/// A set that is fetched, and the one whose keys it takes over.
pub(in crate::auth) struct InheritedSet {
    pub(in crate::auth) number: SetNumber,
    /// The set that the reloaded configuration had at the same place: this one, or one with other settings. `None`: this one is
    /// new.
    pub(in crate::auth) before: Option<SetNumber>,
    /// What its tokens must have.
    pub(in crate::auth) rules: KeyRules,
    /// When its keys end.
    pub(in crate::auth) not_after: WallTime,
    /// By when its first document has to confirm the keys that it takes over, because they are from servers that were trusted for
    /// another reason. `None`: they need none.
    pub(in crate::auth) confirm_by: Option<Instant>,
}

/// The keys by their source.
struct KeySources {
    /// Of the configuration and the files that it names.
    configured: Vec<Arc<VerificationKey>>,
    /// Of each set that is fetched.
    fetched: Vec<FetchedKeys>,
    /// The keys that are ignored because another one has their issuer and `kid`. Each is logged once.
    ignored: Vec<KeyNumber>,
    /// Those of them instead of which another key counts, or the same key with other rules: their sessions have ended.
    superseded: Vec<KeyNumber>,
    /// Whether `auth.keys` is not empty.
    has_auth_keys: bool,
}

struct FetchedKeys {
    set: SetNumber,
    /// Of the latest document.
    keys: Vec<Arc<VerificationKey>>,
    /// Not in the latest document, but in the one before. They verify tokens until the next document lacks them, too: one server
    /// of the provider may have answered with an old document.
    absent: Vec<Arc<VerificationKey>>,
    /// They verify nothing, because the last fetch was too long ago.
    is_stale: bool,
    /// By when a document has to confirm them.
    confirm_by: Option<Instant>,
}

/// The effect of a change of keys on open sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyChange {
    /// Keys that were not there before.
    pub added: usize,
    /// Keys that have another `not_after` now. Sessions of their tokens end at the earlier of both.
    pub other_ends: usize,
    /// Keys that the latest document of their set lacks. They are removed if the next one lacks them, too.
    pub absent: usize,
    /// Keys that are no longer in their file, or were not in two documents of their set, or instead of which another key counts.
    /// Sessions of their tokens have to end.
    pub removed: usize,
}

impl KeyRing {
    /// Reads the keys of the configuration. Of the sets that have to be fetched, the ring has no keys yet.
    ///
    /// # Errors
    /// [`KeyError`].
    pub(in crate::auth) fn read(
        config: &Config,
        fetched_sets: &[SetNumber],
        revocations: Option<Arc<Revocations>>,
    ) -> Result<Self, KeyError> {
        let settings = KeySettings::of(config);
        let configured = settings.read_keys()?.into_iter().map(Arc::new).collect();
        let fetched = fetched_sets.iter().map(|set| FetchedKeys::new(*set)).collect();
        let has_auth_keys = !config.auth.keys.is_empty();
        let (ignored, superseded) = (Vec::new(), Vec::new());
        let mut sources = KeySources { configured, fetched, ignored, superseded, has_auth_keys };
        let current = ArcSwap::from_pointee(sources.put_into_force());
        if let Some(revocations) = &revocations {
            revocations.add_keys(sources.numbers());
        }
        let (sources, settings) = (Mutex::new(sources), Mutex::new(settings));
        Ok(Self { current, sources, settings, revocations })
    }

    /// Returns the keys in force.
    pub(in crate::auth) fn current(&self) -> Guard<Arc<VerificationKeys>> {
        self.current.load()
    }

    /// Returns `not_after` of a key, in force or stale; `None` if it has been removed.
    pub(in crate::auth) fn not_after(&self, number: KeyNumber) -> Option<WallTime> {
        let sources = self.sources.lock();
        let mut ends = sources.all().filter_map(|key| {
            let earlier = key.earlier.iter().find(|earlier| earlier.number == number).map(|earlier| earlier.ends);
            earlier.or_else(|| (key.number == number).then_some(key.not_after))
        });
        ends.next()
    }

    /// Reads the files of the keys again.
    ///
    /// # Errors
    /// [`KeyError`]. The old keys stay in force.
    pub(in crate::auth) fn reload_files(&self) -> Result<KeyChange, KeyError> {
        let settings = self.settings.lock();
        let read = settings.read_keys()?;
        Ok(self.change(|sources| replace(&mut sources.configured, read)))
    }

    /// Replaces the keys by those of another configuration, which fetches these sets.
    ///
    /// # Errors
    /// [`KeyError`]. The old keys stay in force.
    pub(in crate::auth) fn replace_settings(
        &self,
        config: &Config,
        sets: Vec<InheritedSet>,
    ) -> Result<KeyChange, KeyError> {
        let mut settings = self.settings.lock();
        let new = KeySettings::of(config);
        let read = new.read_keys()?;
        *settings = new;
        Ok(self.change(|sources| {
            sources.has_auth_keys = !config.auth.keys.is_empty();
            let mut replaced = replace(&mut sources.configured, read);
            let mut before = std::mem::take(&mut sources.fetched);
            for InheritedSet { number, before: inherited, rules, not_after, confirm_by } in sets {
                let at = before.iter().position(|fetched| Some(fetched.set) == inherited);
                let mut fetched = at.map_or_else(|| FetchedKeys::new(number), |at| before.swap_remove(at));
                if fetched.set != number {
                    fetched.set = number;
                    fetched.confirm_by = [fetched.confirm_by, confirm_by].into_iter().flatten().min();
                    for keys in [&mut fetched.keys, &mut fetched.absent] {
                        let read = keys.iter().map(|key| key.with_settings(rules.clone(), not_after)).collect();
                        replaced.add(replace(keys, read));
                    }
                }
                sources.fetched.push(fetched);
            }
            replaced
                .not_read
                .extend(before.into_iter().flat_map(|fetched| fetched.keys.into_iter().chain(fetched.absent)));
            replaced
        }))
    }

    /// Replaces the keys of a fetched set by those of a newer document. Does nothing if the configuration has the set no longer.
    pub(in crate::auth) fn replace_fetched(&self, set: SetNumber, read: Vec<VerificationKey>) -> KeyChange {
        let mut absent_now = 0;
        let change = self.change(|sources| {
            let Some(fetched) = sources.fetched.iter_mut().find(|fetched| fetched.set == set) else {
                return Replaced::default();
            };
            let FetchedKeys { keys, absent, is_stale, confirm_by, .. } = fetched;
            *is_stale = false;
            // What the first document from other servers lacks, no document of theirs has ever had.
            let is_confirmation = confirm_by.take().is_some();
            let absent_before: Vec<KeyNumber> = absent.iter().map(|key| key.number).collect();
            keys.append(absent);
            let replaced = replace(keys, read);
            let not_read;
            let is_removed = |key: &Arc<VerificationKey>| is_confirmation || absent_before.contains(&key.number);
            (not_read, *absent) = replaced.not_read.into_iter().partition(is_removed);
            absent_now = absent.len();
            Replaced { not_read, ..replaced }
        });
        KeyChange { absent: absent_now, ..change }
    }

    /// Removes the keys of a fetched set if a document had to confirm them by now.
    pub(in crate::auth) fn drop_unconfirmed(&self, set: SetNumber, now: Instant) -> KeyChange {
        self.change(|sources| {
            let is_overdue = |fetched: &&mut FetchedKeys| {
                fetched.set == set && fetched.confirm_by.is_some_and(|confirm_by| confirm_by <= now)
            };
            let Some(fetched) = sources.fetched.iter_mut().find(is_overdue) else { return Replaced::default() };
            let FetchedKeys { keys, absent, .. } = std::mem::replace(fetched, FetchedKeys::new(set));
            Replaced { not_read: keys.into_iter().chain(absent).collect(), ..Replaced::default() }
        })
    }

    /// Returns whether there are keys of a fetched set, in force or not.
    pub(in crate::auth) fn has_keys_of(&self, set: SetNumber) -> bool {
        let sources = self.sources.lock();
        sources
            .fetched
            .iter()
            .any(|fetched| fetched.set == set && !(fetched.keys.is_empty() && fetched.absent.is_empty()))
    }

    /// Lets the keys of a fetched set verify nothing until it is fetched again. They are not removed: sessions stay. Keys that a
    /// document has to confirm have an end of their own.
    pub(in crate::auth) fn suspend_fetched(&self, set: SetNumber) {
        self.change(|sources| {
            let is_meant = |fetched: &&mut FetchedKeys| fetched.set == set && fetched.confirm_by.is_none();
            let suspended = sources.fetched.iter_mut().filter(is_meant);
            suspended.for_each(|fetched| fetched.is_stale = true);
            Replaced::default()
        });
    }

    /// Changes the keys by a function that returns what it has replaced.
    fn change(&self, change: impl FnOnce(&mut KeySources) -> Replaced) -> KeyChange {
        let mut sources = self.sources.lock();
        // Of a key that was superseded before, and of one that is new, there are no sessions.
        let counted: HashSet<KeyNumber> =
            sources.all().map(|key| key.number).filter(|number| !sources.superseded.contains(number)).collect();
        let Replaced { added, other_ends, not_read } = change(&mut sources);
        let current = sources.put_into_force();
        if let Some(revocations) = &self.revocations {
            revocations.add_keys(sources.numbers());
        }
        self.current.store(Arc::new(current));
        let is_superseded =
            |key: &&Arc<VerificationKey>| sources.superseded.contains(&key.number) && counted.contains(&key.number);
        let removed: Vec<&Arc<VerificationKey>> = not_read.iter().chain(sources.all().filter(is_superseded)).collect();
        // Last: a token that is verified by a removed key is then refused, too.
        if let Some(revocations) = &self.revocations {
            let numbers: Vec<KeyNumber> = removed.iter().flat_map(|key| key.numbers()).map(|key| key.number).collect();
            revocations.remove_keys(&numbers);
        }
        KeyChange { added, other_ends, absent: 0, removed: removed.len() }
    }
}

impl FetchedKeys {
    fn new(set: SetNumber) -> Self {
        Self { set, keys: Vec::new(), absent: Vec::new(), is_stale: false, confirm_by: None }
    }
}

impl KeySources {
    fn all(&self) -> impl Iterator<Item = &Arc<VerificationKey>> {
        let fetched = self.fetched.iter().flat_map(|fetched| fetched.keys.iter().chain(&fetched.absent));
        self.configured.iter().chain(fetched)
    }

    /// Returns the numbers of the keys whose sessions may go on.
    fn numbers(&self) -> impl Iterator<Item = KeyInUse> {
        self.all().filter(|key| !self.superseded.contains(&key.number)).flat_map(|key| key.numbers())
    }

    /// Returns the keys that verify tokens. If a fetched key has issuer and `kid` of another one, the other one counts: of the
    /// configuration, or of the set that is named first. An absent key with the `kid` of a newer one of its set does not count.
    fn put_into_force(&mut self) -> VerificationKeys {
        let mut list = self.configured.clone();
        // By what a token selects it by: the key that counts, and its set if it was fetched.
        let mut counting: HashMap<_, (Option<SetNumber>, &Arc<VerificationKey>)> =
            self.configured.iter().map(|key| (key.selector(), (None, key))).collect();
        let (mut ignored, mut superseded) = (Vec::new(), Vec::new());
        let current = self.fetched.iter().flat_map(|fetched| fetched.keys.iter().map(move |key| (fetched, key)));
        let absent = self.fetched.iter().flat_map(|fetched| fetched.absent.iter().map(move |key| (fetched, key)));
        for (fetched, key) in current.chain(absent) {
            match counting.get(&key.selector()) {
                // The next document decides about the sessions of the absent one.
                Some((set, _)) if *set == Some(fetched.set) => {}
                Some((_, other)) => {
                    if !self.ignored.contains(&key.number) {
                        log::warn!("ignored fetched key, another key has its issuer and kid kid={:?}", key.id);
                    }
                    ignored.push(key.number);
                    if !other.is_same_but_for_its_end(key) {
                        superseded.push(key.number);
                    }
                }
                None if fetched.is_stale => {}
                None => {
                    counting.insert(key.selector(), (Some(fetched.set), key));
                    list.push(key.clone());
                }
            }
        }
        (self.ignored, self.superseded) = (ignored, superseded);
        VerificationKeys { list, has_auth_keys: self.has_auth_keys }
    }
}

/// The keys that a change has replaced.
#[derive(Default)]
struct Replaced {
    added: usize,
    other_ends: usize,
    /// The keys that were there before and were not read now.
    not_read: Vec<Arc<VerificationKey>>,
}

impl Replaced {
    fn add(&mut self, other: Self) {
        self.added += other.added;
        self.other_ends += other.other_ends;
        self.not_read.extend(other.not_read);
    }
}

/// Replaces keys by those that were read now. A key that was there before stays the same object; one with another `not_after` takes
/// over its numbers.
fn replace(keys: &mut Vec<Arc<VerificationKey>>, read: Vec<VerificationKey>) -> Replaced {
    let mut before = std::mem::take(keys);
    let (mut added, mut other_ends) = (0, 0);
    for mut key in read {
        if let Some(at) = before.iter().position(|old| old.is_same_as(&key)) {
            keys.push(before.swap_remove(at));
            continue;
        }
        match before.iter().position(|old| old.is_same_but_for_its_end(&key)) {
            Some(at) => {
                other_ends += 1;
                key.succeed(&before.swap_remove(at));
            }
            None => added += 1,
        }
        keys.push(Arc::new(key));
    }
    Replaced { added, other_ends, not_read: before }
}
