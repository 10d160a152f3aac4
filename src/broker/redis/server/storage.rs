//! Checks that the server stores what it is given, and that its user has every right that the hub needs. A Redis that is full,
//! cannot save, is loading, or denies a command still passes publications without a history on, so only this check finds it
//! before a client does.

use std::time::Duration;

use redis::{Pipeline, Value};
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
const COMMANDS: [(&str, &[&str]); 2] = [("SET", &[KEY, "1", "PX", KEY_TTL_MILLIS]), ("GETDEL", &[KEY])];

/// Error codes of commands that the user may run.
const PERMITTED: [&str; 2] = ["WRONGTYPE", "NOSCRIPT"];

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
        let pause = match check(context, server).await {
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

async fn check(context: &RedisContext, server: &RedisServer) -> Result<(), String> {
    let replies = server.connector.query_all(commands(context.names.storage_check_key()), server.timeout).await?;
    for ((name, _), reply) in COMMANDS.iter().zip(replies) {
        match reply {
            Value::ServerError(error) if !PERMITTED.contains(&error.code()) => {
                return Err(format!("{name}: {}", describe_reply(&error)));
            }
            _ => (),
        }
    }
    Ok(())
}

fn commands(key: &str) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(COMMANDS.len() + 1);
    for (name, arguments) in COMMANDS {
        let command = pipeline.cmd(name);
        for argument in arguments {
            command.arg(if *argument == KEY { key } else { argument });
        }
    }
    pipeline
}
