//! The keys in force, which change while the hub runs: by reloads of their files, and by fetched JWK sets.

use std::{collections::HashSet, sync::Arc};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;

use super::{KeyError, VerificationKey, VerificationKeys};
use crate::{
    config::Config,
    revocation::{KeyNumber, Revocations},
};

/// The keys in force. Verifying reads them without a lock.
pub(in crate::auth) struct KeyRing {
    current: ArcSwap<VerificationKeys>,
    sources: Mutex<KeySources>,
    has_auth_keys: bool,
    /// End the sessions of keys that are gone.
    revocations: Option<Arc<Revocations>>,
}

/// The keys by their source.
struct KeySources {
    /// Of the configuration and the files that it names.
    configured: Vec<Arc<VerificationKey>>,
    /// Of each set that is fetched.
    fetched: Vec<FetchedKeys>,
}

#[derive(Default)]
struct FetchedKeys {
    keys: Vec<Arc<VerificationKey>>,
    /// They verify nothing, because the last fetch was too long ago.
    is_stale: bool,
}

/// What a change of keys means for open sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyChange {
    /// Keys that were not there before.
    pub added: usize,
    /// Keys that are gone. Sessions of their tokens have to end.
    pub retired: usize,
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
        let sources = KeySources { configured: read.into_iter().map(Arc::new).collect(), fetched };
        let has_auth_keys = !config.auth.keys.is_empty();
        if let Some(revocations) = &revocations {
            revocations.add_keys(sources.numbers());
        }
        let current = ArcSwap::from_pointee(sources.in_force(has_auth_keys));
        Ok(Self { current, sources: Mutex::new(sources), has_auth_keys, revocations })
    }

    /// Returns the keys in force.
    pub(in crate::auth) fn current(&self) -> Guard<Arc<VerificationKeys>> {
        self.current.load()
    }

    /// Reads the keys of the configuration again: the files may have changed.
    ///
    /// # Errors
    /// [`KeyError`]. The old keys stay in force.
    pub(in crate::auth) fn reload(&self, config: &Config) -> Result<KeyChange, KeyError> {
        let read = VerificationKeys::read(&config.auth, &config.login.key)?;
        Ok(self.change(|sources| replace(&mut sources.configured, read)))
    }

    /// Replaces the keys of a fetched set.
    pub(in crate::auth) fn replace_fetched(&self, set: usize, keys: Vec<VerificationKey>) -> KeyChange {
        self.change(|sources| {
            sources.fetched[set].is_stale = false;
            replace(&mut sources.fetched[set].keys, keys)
        })
    }

    /// Lets the keys of a fetched set verify nothing until it is fetched again. They are not retired: sessions stay.
    pub(in crate::auth) fn suspend_fetched(&self, set: usize) {
        self.change(|sources| {
            sources.fetched[set].is_stale = true;
            (0, Vec::new())
        });
    }

    /// Changes the keys by a function that returns how many are new, and which are gone.
    fn change(&self, change: impl FnOnce(&mut KeySources) -> (usize, Vec<KeyNumber>)) -> KeyChange {
        let mut sources = self.sources.lock();
        let (added, gone) = change(&mut sources);
        if let Some(revocations) = &self.revocations {
            revocations.add_keys(sources.numbers());
        }
        self.current.store(Arc::new(sources.in_force(self.has_auth_keys)));
        // Last: a token that is verified by a key that is gone is then refused, too.
        if let Some(revocations) = &self.revocations {
            revocations.retire_keys(&gone);
        }
        KeyChange { added, retired: gone.len() }
    }
}

impl KeySources {
    fn numbers(&self) -> Vec<KeyNumber> {
        let fetched = self.fetched.iter().flat_map(|fetched| &fetched.keys);
        self.configured.iter().chain(fetched).map(|key| key.number).collect()
    }

    /// Returns the keys that verify tokens. If a fetched key has issuer and `kid` of another one, the other one counts: of the
    /// configuration, or of the set that is named first.
    fn in_force(&self, has_auth_keys: bool) -> VerificationKeys {
        let fetched = self.fetched.iter().filter(|fetched| !fetched.is_stale).flat_map(|fetched| &fetched.keys);
        let mut seen = HashSet::new();
        let mut list = Vec::new();
        for key in self.configured.iter().chain(fetched) {
            if seen.insert(key.selector()) {
                list.push(key.clone());
            } else {
                log::warn!("ignored fetched key, another key has its issuer and kid kid={:?}", key.id);
            }
        }
        VerificationKeys { list, has_auth_keys }
    }
}

/// Replaces keys by those that were read now. A key that was there before stays the same.
fn replace(keys: &mut Vec<Arc<VerificationKey>>, read: Vec<VerificationKey>) -> (usize, Vec<KeyNumber>) {
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
    (added, before.iter().map(|gone| gone.number).collect())
}
