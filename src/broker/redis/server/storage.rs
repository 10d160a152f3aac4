//! Checks that the server stores what it is given, and that its user has every right that the hub needs. A Redis that is full,
//! cannot save, is loading, or denies a command still passes publications without a history on, so only this check finds it
//! before a client does.

use std::time::Duration;

use redis::{Cmd, Value};
use tokio::time::{Instant, sleep, sleep_until};

use super::{super::RedisContext, RedisServer, connect::ReconnectBackoff, fault::describe_reply, health::RedisLink};

/// Lifetime of the key that the check writes, if it is not removed.
const KEY_TTL_MILLIS: &str = "10000";
/// How soon the check notices that the server can be reached.
const NEXT_LOOK: Duration = Duration::from_millis(50);
/// Stands for the key in [`COMMANDS`].
const KEY: &str = "{key}";

/// Each command that the hub needs beside those of its two connections, with arguments that change nothing but the key. The
/// first one stores text there, so that those for other types are refused for its type; and that proves the right to them.
const COMMANDS: [(&str, &[&str]); 24] = [
    ("SET", &[KEY, "1", "PX", KEY_TTL_MILLIS]),
    ("GET", &[KEY]),
    ("XADD", &[KEY, "NOMKSTREAM", "*", "field", "value"]),
    ("XRANGE", &[KEY, "-", "+", "COUNT", "1"]),
    ("XREVRANGE", &[KEY, "+", "-", "COUNT", "1"]),
    ("XTRIM", &[KEY, "MAXLEN", "0"]),
    ("HSET", &[KEY, "field", "value"]),
    ("HMGET", &[KEY, "field"]),
    ("HDEL", &[KEY, "field"]),
    ("HSCAN", &[KEY, "0"]),
    ("ZADD", &[KEY, "1", "member"]),
    ("ZMSCORE", &[KEY, "member"]),
    ("ZRANGEBYSCORE", &[KEY, "0", "1", "LIMIT", "0", "1"]),
    ("ZREM", &[KEY, "member"]),
    ("PTTL", &[KEY]),
    ("TIME", &[]),
    ("SCRIPT", &["LOAD", SCRIPT]),
    ("EVALSHA", &[SCRIPT_HASH, "1", KEY]),
    ("PEXPIRE", &[KEY, KEY_TTL_MILLIS]),
    ("GETDEL", &[KEY]),
    ("DEL", &[KEY]),
    ("UNLINK", &[KEY]),
    ("PING", &[]),
    ("UNWATCH", &[]),
];

/// A script that does nothing.
const SCRIPT: &str = "return 1";
const SCRIPT_HASH: &str = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";

/// The error code of a command that the user may run.
const PERMITTED: &str = "WRONGTYPE";

/// Checks the server at each probe interval, forever, and sooner after a failure.
pub(super) async fn keep_checking(context: &RedisContext, server: &RedisServer) {
    let mut backoff = ReconnectBackoff::default();
    loop {
        // Nothing can be stored without a connection either, but that is known already.
        if server.health.fault_of(RedisLink::Publishing).is_some() {
            sleep(NEXT_LOOK).await;
            continue;
        }
        let begun = Instant::now();
        let pause = match check(server).await {
            Ok(()) => {
                server.health.report_up(RedisLink::Storage, None);
                backoff = ReconnectBackoff::default();
                context.probe_interval
            }
            Err(error) => {
                server.health.report_down(RedisLink::Storage, &error);
                backoff.next_delay(Duration::ZERO)
            }
        };
        sleep_until(begun + pause).await;
    }
}

async fn check(server: &RedisServer) -> Result<(), String> {
    // A master without partitions stores nothing.
    let Some(key) = server.own_names.load().storage_check.clone() else { return Ok(()) };
    let replies = server.connector.query_many(commands(&key), server.timeout).await?;
    for ((name, _), reply) in COMMANDS.iter().zip(replies) {
        match reply {
            Value::ServerError(error) if error.code() != PERMITTED => {
                return Err(format!("{name}: {}", describe_reply(&error)));
            }
            _ => (),
        }
    }
    Ok(())
}

fn commands(key: &str) -> Vec<Cmd> {
    let command = |(name, arguments): &(&str, &[&str])| {
        let mut command = redis::cmd(name);
        for argument in *arguments {
            command.arg(if *argument == KEY { key } else { argument });
        }
        command
    };
    COMMANDS.iter().map(command).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use redis::Arg;

    use super::*;
    use crate::broker::redis::scripts;

    /// The commands of the two connections, which prove their rights to them by working.
    const OF_CONNECTIONS: [&str; 6] = ["AUTH", "HELLO", "ROLE", "PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE"];

    fn checked() -> BTreeSet<String> {
        COMMANDS.iter().map(|(name, _)| (*name).to_owned()).collect()
    }

    #[test]
    fn every_command_of_the_scripts_is_checked() {
        let mut used = BTreeSet::new();
        for load in scripts::load_commands() {
            let Some(Arg::Simple(source)) = load.args_iter().last() else { panic!("no source") };
            let source = std::str::from_utf8(source).expect("a script is text");
            let calls = source.split("call('").skip(1).filter_map(|rest| rest.split('\'').next());
            used.extend(calls.map(str::to_owned));
        }
        assert!(used.contains("XADD"), "{used:?}");
        assert_eq!(used.difference(&checked()).collect::<Vec<_>>(), [""; 0]);
    }

    #[test]
    fn documented_rights_are_those_that_are_checked() {
        let page = include_str!("../../../../docs/deploying.md");
        let rights = page.split("```redis-acl").nth(1).and_then(|rest| rest.split("```").next()).expect("the rights");
        let rights = rights.split_whitespace().filter_map(|rule| rule.strip_prefix('+'));
        let documented: BTreeSet<String> =
            rights.filter_map(|right| right.split('|').next()).map(str::to_uppercase).collect();
        let needed: BTreeSet<String> = checked().into_iter().chain(OF_CONNECTIONS.map(str::to_owned)).collect();
        assert_eq!(documented, needed);
    }
}
