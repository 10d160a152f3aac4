//! The scripts that run in Redis, each as one atomic operation. Every script is a file whose first lines name its KEYS and ARGV.
//! They are called by their hash (EVALSHA). A Redis that does not know the hash, because it was restarted, flushed its scripts or
//! took over from another one, answers NOSCRIPT and has run nothing: then the scripts are loaded, and the call is sent again.

use std::sync::LazyLock;

use redis::{Arg, Cmd, ServerErrorKind, ToRedisArgs, Value};

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
    /// Stores a login.
    LOGIN_START = "logins.lua", "login_start.lua";
    /// Refreshes a login.
    LOGIN_REFRESH = "logins.lua", "login_refresh.lua";
    /// Returns logins.
    LOGIN_FIND = "logins.lua", "login_find.lua";
    /// Ends logins.
    LOGIN_END = "logins.lua", "login_end.lua";
    /// Starts a login attempt, unless earlier failures delay it.
    LOGIN_BEGIN = "login_failures.lua", "login_begin.lua";
    /// Undoes a login attempt.
    LOGIN_FORGIVE = "login_failures.lua", "login_forgive.lua";
    /// Counts the connections of users.
    CONNECTIONS = "connections.lua";
    /// Charges events to users.
    RATES = "rates.lua";
    /// Appends events for the backend.
    EVENTS_APPEND = "events_append.lua";
    /// Reads events for the backend.
    EVENTS_READ = "events_read.lua";
    /// Renews the registration of a node for events.
    EVENTS_RENEW = "events_renew.lua";
    /// Leases the takeover of a lost node's events.
    EVENTS_LEASE = "events_lease.lua";
    /// Removes the registration of a node for events.
    EVENTS_FORGET = "events_forget.lua";
    /// Keeps revocations.
    REVOKE = "revoke.lua";
    /// Replaces the record of a claim.
    REPLACE_CLAIM = "replace_claim.lua";
}

impl RedisScript {
    fn new(source: &'static str) -> Self {
        Self { source, hash: hash_of(source) }
    }

    /// Returns the hash, by which it is called.
    pub(super) fn hash(&self) -> &str {
        &self.hash
    }

    /// Returns the command that runs the script with these KEYS. The caller appends ARGV.
    pub(super) fn call(&self, keys: &[impl ToRedisArgs]) -> Cmd {
        let mut call = redis::cmd("EVALSHA");
        call.arg(&self.hash).arg(keys.len());
        keys.iter().for_each(|key| _ = call.arg(key));
        call
    }
}

fn hash_of(source: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, source.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How a command is run on a server that is importing its slot.
pub(super) struct ImportingCall {
    /// The commands. The last reply counts.
    pub(super) commands: Vec<Cmd>,
    is_script: bool,
}

/// What a script has announced on an importing server.
pub(super) struct Announcement {
    pub(super) shard_channel: Vec<u8>,
    pub(super) message: Vec<u8>,
}

impl ImportingCall {
    /// Creates the commands for a command. A script is run as `importing.lua` says.
    pub(super) fn new(command: &Cmd) -> Self {
        let asking = redis::cmd("ASKING");
        match importing_script(command) {
            Some([load, call]) => Self { commands: vec![load, asking, call], is_script: true },
            None => Self { commands: vec![asking, command.clone()], is_script: false },
        }
    }

    /// Splits the last reply into that of the command, and what the script has announced.
    pub(super) fn parse(&self, reply: Value) -> (Value, Vec<Announcement>) {
        match reply {
            Value::Array(parts) if self.is_script => {
                let mut parts = parts.into_iter();
                let reply = parts.next().unwrap_or_default();
                let mut texts = parts.map_while(|part| match part {
                    Value::BulkString(text) => Some(text),
                    _ => None,
                });
                let next = || Some(Announcement { shard_channel: texts.next()?, message: texts.next()? });
                (reply, std::iter::from_fn(next).collect())
            }
            reply => (reply, Vec::new()),
        }
    }
}

/// Returns the commands that load and call the script of a call. `None`: it is not the call of a script.
fn importing_script(call: &Cmd) -> Option<[Cmd; 2]> {
    let mut arguments = call.args_iter().filter_map(|argument| match argument {
        Arg::Simple(argument) => Some(argument),
        _ => None,
    });
    arguments.next().filter(|name| *name == b"EVALSHA")?;
    let hash = arguments.next()?;
    let script = ALL.iter().find(|script| script.hash.as_bytes() == hash)?;
    let source = include_str!("importing.lua").replace("-- SCRIPT", script.source);
    let mut load = redis::cmd("SCRIPT");
    load.arg("LOAD").arg(&source);
    let (key_count, first_key) = (arguments.next()?, arguments.next()?);
    let mut call = redis::cmd("EVALSHA");
    call.arg(hash_of(&source)).arg(1).arg(first_key).arg(key_count);
    arguments.for_each(|argument| _ = call.arg(argument));
    Some([load, call])
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
