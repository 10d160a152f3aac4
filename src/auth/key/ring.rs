//! The keys in force, which change while the hub runs: by reloads of their files, and by fetched JWK sets.

use std::{collections::HashSet, sync::Arc};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;

use super::{KeyError, VerificationKey, VerificationKeys};
use crate::{
    clock::WallTime,
    config::Config,
    revocation::{KeyNumber, Revocations},
};

/// The keys in force. Verifying reads them without a lock.
pub(in crate::auth) struct KeyRing {
    current: ArcSwap<VerificationKeys>,
    sources: Mutex<KeySources>,
    /// Held while the files are read and their keys put into force: what was read first must not replace what was read last.
    reloading: Mutex<()>,
    has_auth_keys: bool,
    /// End the sessions of removed keys.
    revocations: Option<Arc<Revocations>>,
}

/// The keys by their source.
struct KeySources {
    /// Of the configuration and the files that it names.
    configured: Vec<Arc<VerificationKey>>,
    /// Of each set that is fetched.
    fetched: Vec<FetchedKeys>,
    /// The keys that are ignored because another one has their issuer and `kid`. Each is logged once.
    ignored: Vec<KeyNumber>,
}

#[derive(Default)]
struct FetchedKeys {
    /// Of the latest document.
    keys: Vec<Arc<VerificationKey>>,
    /// Not in the latest document, but in the one before. They verify tokens until the next document lacks them, too: one server
    /// of the provider may have answered with an old document.
    absent: Vec<Arc<VerificationKey>>,
    /// They verify nothing, because the last fetch was too long ago.
    is_stale: bool,
}

/// The effect of a change of keys on open sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyChange {
    /// Keys that were not there before.
    pub added: usize,
    /// Keys that the latest document of their set lacks. They are removed if the next one lacks them, too.
    pub absent: usize,
    /// Keys that are no longer in their file, or were not in two documents of their set. Sessions of their tokens have to end.
    pub removed: usize,
}

impl KeyRing {
    /// Reads the keys of the configuration. Of the sets that have to be fetched, the ring has no keys yet.
    ///
    /// # Errors
    /// [`KeyError`].
    pub(in crate::auth) fn read(
        config: &Config,
        fetched_sets: usize,
        revocations: Option<Arc<Revocations>>,
    ) -> Result<Self, KeyError> {
        let read = VerificationKeys::read(&config.auth, &config.login.key)?;
        let fetched = (0..fetched_sets).map(|_| FetchedKeys::default()).collect();
        let configured = read.into_iter().map(Arc::new).collect();
        let mut sources = KeySources { configured, fetched, ignored: Vec::new() };
        let has_auth_keys = !config.auth.keys.is_empty();
        if let Some(revocations) = &revocations {
            revocations.add_keys(sources.all().map(|key| key.number));
        }
        let current = ArcSwap::from_pointee(sources.put_into_force(has_auth_keys));
        let (sources, reloading) = (Mutex::new(sources), Mutex::default());
        Ok(Self { current, sources, reloading, has_auth_keys, revocations })
    }

    /// Returns the keys in force.
    pub(in crate::auth) fn current(&self) -> Guard<Arc<VerificationKeys>> {
        self.current.load()
    }

    /// Returns `not_after` of a key, in force or stale; `None` if it has been removed.
    pub(in crate::auth) fn not_after(&self, number: KeyNumber) -> Option<WallTime> {
        self.sources.lock().all().find(|key| key.number == number).map(|key| key.not_after)
    }

    /// Reads the keys of the configuration again: the files may have changed.
    ///
    /// # Errors
    /// [`KeyError`]. The old keys stay in force.
    pub(in crate::auth) fn reload(&self, config: &Config) -> Result<KeyChange, KeyError> {
        let _reloading = self.reloading.lock();
        let read = VerificationKeys::read(&config.auth, &config.login.key)?;
        Ok(self.change(|sources| {
            let (added, removed) = replace(&mut sources.configured, read);
            Replaced { added, absent: 0, removed }
        }))
    }

    /// Replaces the keys of a fetched set by those of a newer document.
    pub(in crate::auth) fn replace_fetched(&self, set: usize, read: Vec<VerificationKey>) -> KeyChange {
        self.change(|sources| {
            let FetchedKeys { keys, absent, is_stale } = &mut sources.fetched[set];
            *is_stale = false;
            let absent_before: Vec<KeyNumber> = absent.iter().map(|key| key.number).collect();
            keys.append(absent);
            let (added, not_read) = replace(keys, read);
            let removed;
            (removed, *absent) = not_read.into_iter().partition(|key| absent_before.contains(&key.number));
            Replaced { added, absent: absent.len(), removed }
        })
    }

    /// Lets the keys of a fetched set verify nothing until it is fetched again. They are not removed: sessions stay.
    pub(in crate::auth) fn suspend_fetched(&self, set: usize) {
        self.change(|sources| {
            sources.fetched[set].is_stale = true;
            Replaced::default()
        });
    }

    /// Changes the keys by a function that returns what it has replaced.
    fn change(&self, change: impl FnOnce(&mut KeySources) -> Replaced) -> KeyChange {
        let mut sources = self.sources.lock();
        let Replaced { added, absent, removed } = change(&mut sources);
        if let Some(revocations) = &self.revocations {
            revocations.add_keys(sources.all().map(|key| key.number));
        }
        self.current.store(Arc::new(sources.put_into_force(self.has_auth_keys)));
        // Last: a token that is verified by a removed key is then refused, too.
        if let Some(revocations) = &self.revocations {
            revocations.remove_keys(&removed.iter().map(|key| key.number).collect::<Vec<_>>());
        }
        KeyChange { added, absent, removed: removed.len() }
    }
}

impl KeySources {
    fn all(&self) -> impl Iterator<Item = &Arc<VerificationKey>> {
        let fetched = self.fetched.iter().flat_map(|fetched| fetched.keys.iter().chain(&fetched.absent));
        self.configured.iter().chain(fetched)
    }

    /// Returns the keys that verify tokens. If a fetched key has issuer and `kid` of another one, the other one counts: of the
    /// configuration, or of the set that is named first. An absent key with the `kid` of a newer one of its set does not count.
    fn put_into_force(&mut self, has_auth_keys: bool) -> VerificationKeys {
        let current = || self.fetched.iter().filter(|fetched| !fetched.is_stale);
        let fetched = current().flat_map(|fetched| &fetched.keys);
        let (mut seen, mut list, mut ignored) = (HashSet::new(), Vec::new(), Vec::new());
        for key in self.configured.iter().chain(fetched) {
            if seen.insert(key.selector()) {
                list.push(key.clone());
            } else {
                if !self.ignored.contains(&key.number) {
                    log::warn!("ignored fetched key, another key has its issuer and kid kid={:?}", key.id);
                }
                ignored.push(key.number);
            }
        }
        let absent = current().flat_map(|fetched| &fetched.absent);
        list.extend(absent.filter(|key| seen.insert(key.selector())).cloned());
        self.ignored = ignored;
        VerificationKeys { list, has_auth_keys }
    }
}

/// The keys that a change has replaced.
#[derive(Default)]
struct Replaced {
    added: usize,
    absent: usize,
    removed: Vec<Arc<VerificationKey>>,
}

/// Replaces keys by those that were read now. A key that was there before stays the same object. Returns the number of new keys, and
/// the keys that were not read.
fn replace(keys: &mut Vec<Arc<VerificationKey>>, read: Vec<VerificationKey>) -> (usize, Vec<Arc<VerificationKey>>) {
    let mut before = std::mem::take(keys);
    let mut added = 0;
    for key in read {
        match before.iter().position(|old| old.is_same_as(&key)) {
            Some(at) => keys.push(before.swap_remove(at)),
            None => {
                added += 1;
                keys.push(Arc::new(key));
            }
        }
    }
    (added, before)
}
