//! Values that are spread over shards by channel, each shard with its own lock, so that threads seldom wait for each other.

use std::{hash::BuildHasher, iter};

use parking_lot::{Mutex, MutexGuard};

use crate::channel::Channel;

/// Many more shards than workers, so that two workers seldom need the same one.
pub(super) const SHARDS: usize = 64;

/// One `T` per shard.
pub(super) struct Sharded<T> {
    shards: Box<[Mutex<T>]>,
    hasher: foldhash::fast::RandomState,
}

impl<T: Default> Default for Sharded<T> {
    fn default() -> Self {
        let shards = iter::repeat_with(Mutex::default).take(SHARDS).collect();
        Self { shards, hasher: foldhash::fast::RandomState::default() }
    }
}

impl<T> Sharded<T> {
    /// Locks the shard of a channel.
    pub(super) fn lock(&self, channel: &Channel) -> MutexGuard<'_, T> {
        // A hash has 64 bits; the shards need 6 of them, so it does not matter that a cast may cut it off.
        let shard = self.hasher.hash_one(channel) as usize % SHARDS;
        self.shards[shard].lock()
    }

    /// All shards, unlocked.
    pub(super) fn all(&self) -> &[Mutex<T>] {
        &self.shards
    }
}
