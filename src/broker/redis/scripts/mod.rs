//! The scripts that run in Redis, each as one atomic operation. Every script is a file whose first lines name its KEYS and ARGV.
//! They are called by their hash (EVALSHA). A Redis that does not know the hash, because it was restarted, flushed its scripts or
//! took over from another one, answers NOSCRIPT and has run nothing: then the scripts are loaded, and the call is sent again.

use std::sync::LazyLock;

use redis::{Cmd, ServerErrorKind, ToRedisArgs, Value};

/// A script and its hash.
pub(super) struct RedisScript {
    source: &'static str,
    hash: String,
}

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $($file:literal),+;)*) => {
        $($(#[$doc])*
        pub(super) static $name: LazyLock<RedisScript> =
            LazyLock::new(|| RedisScript::new(concat!($(include_str!($file)),+)));)*

        /// All scripts.
        static ALL: &[&LazyLock<RedisScript>] = &[$(&$name),*];
    };
}

scripts! {
    /// Stores and announces a publication.
    PUBLISH = "history.lua", "publish.lua";
    /// Announces a publication with an idempotency key that is not stored.
    PUBLISH_ONCE = "publish_once.lua";
    /// Reads the positions of channels, and creates those that are missing.
    OPEN_HISTORIES = "history.lua", "open_histories.lua";
    /// Reads a part of a history, and its position.
    READ_HISTORY = "history.lua", "read_history.lua";
    /// Replaces the epoch of a channel that has lost publications.
    RENEW_EPOCH = "renew_epoch.lua";
    /// Stores that clients are present.
    PRESENCE_STORE = "presence.lua", "presence_store.lua";
    /// Lets clients that are stored as present live longer.
    PRESENCE_REFRESH = "presence.lua", "presence_refresh.lua";
    /// Removes clients from the presence.
    PRESENCE_REMOVE = "presence.lua", "presence_remove.lua";
    /// Reads a part of the present clients.
    PRESENCE_PAGE = "presence_page.lua";
    /// Keeps revocations.
    REVOKE = "revoke.lua";
}

impl RedisScript {
    fn new(source: &'static str) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, source.as_bytes());
        Self { source, hash: digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect() }
    }

    /// Returns the command that runs the script with these KEYS. The caller appends ARGV.
    pub(super) fn call(&self, keys: &[impl ToRedisArgs]) -> Cmd {
        let mut call = redis::cmd("EVALSHA");
        call.arg(&self.hash).arg(keys.len());
        keys.iter().for_each(|key| _ = call.arg(key));
        call
    }
}

/// Returns the commands that load all scripts.
pub(super) fn load_commands() -> impl ExactSizeIterator<Item = Cmd> {
    ALL.iter().map(|script| {
        let mut load = redis::cmd("SCRIPT");
        load.arg("LOAD").arg(script.source);
        load
    })
}

/// Returns whether a reply means that the script is not loaded, so that nothing has run.
pub(super) fn is_missing(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_begins_with_its_keys_and_arguments() {
        for script in ALL {
            let named = ["-- KEYS: ", "-- ARGV: "];
            assert!(named.iter().all(|start| script.source.lines().any(|line| line.starts_with(start))));
            assert_eq!(script.hash.len(), 40);
        }
    }
}
