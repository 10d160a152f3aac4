//! The table of Redis errors: what each means, and what the operator can do about it. One line per kind, for the log and the
//! readiness.

use std::time::Duration;

use redis::{RedisError, ServerError, Value};

/// The meaning of an error by its code, and by a part of its details. The first entry that matches counts.
const MEANINGS: [(&str, &str, &str); 21] = [
    (
        "WRONGPASS",
        "",
        "redis refuses the user or its password; correct them in broker.redis, or of a sentinel in broker.redis.sentinel",
    ),
    (
        "NOAUTH",
        "",
        "redis wants a password; set broker.redis.password, or for a sentinel broker.redis.sentinel.password",
    ),
    ("NOPERM", "", NO_PERMISSION),
    // redis-rs gives this code to a refused SELECT.
    ("ERR", "no permissions", NO_PERMISSION),
    ("ERR", "DB index is out of range", "redis has no database with the number in its URL; correct it"),
    (
        "ERR",
        "max number of clients",
        "redis accepts no more connections; raise its maxclients, or lower broker.redis.pool_size",
    ),
    (
        "ERR",
        "cluster support disabled",
        "it is not a node of a cluster; use broker.redis.url for one server, or broker.redis.urls",
    ),
    ("ERR", "not allowed in cluster mode", NODE_OF_A_CLUSTER),
    ("MOVED", "", NODE_OF_A_CLUSTER),
    ("ERR", "SENTINEL", "this is a redis, not a sentinel; correct broker.redis.sentinel.urls"),
    ("ERR", "unknown command", TOO_OLD),
    ("OOM", "", "redis is full and refuses writes; raise its maxmemory"),
    ("MISCONF", "", "redis cannot save its data and refuses writes; look at its disk and its log"),
    ("NOREPLICAS", "", "redis has fewer replicas than its min-replicas-to-write, and refuses writes"),
    ("LOADING", "", "redis is loading its data"),
    ("READONLY", "", "redis is a replica: it refuses writes"),
    ("MASTERDOWN", "", "redis is a replica without a master"),
    ("BUSY", "", "a script has been running for too long and blocks redis; end it with SCRIPT KILL"),
    ("UNKILLABLE", "", "a script that has written blocks redis; only SHUTDOWN NOSAVE ends it"),
    ("CLUSTERDOWN", "", "the cluster is down: not all of its slots have a master"),
    (
        "WRONGTYPE",
        "",
        "another program has stored something else under a key of the hub; use another broker.redis.prefix",
    ),
];

const NO_PERMISSION: &str = "the redis user lacks a right; grant it (docs/deploying.md lists all that the hub needs)";
const NODE_OF_A_CLUSTER: &str = "redis is a node of a cluster; name it in broker.redis.cluster.urls";
const TOO_OLD: &str = "redis is too old; the hub needs redis 6.2 or newer, or valkey";

/// Where Redis begins to quote the arguments of an unknown command, which may be a password.
const QUOTED_ARGUMENTS: &str = ", with args beginning with";
/// Maximum length of the details that are quoted.
const MAX_DETAILS_CHARS: usize = 100;
/// The text of redis-rs for a server that does not know HELLO.
const NO_HELLO: &str = "doesn't support HELLO";

/// Describes an error of a connection whose replies have this time limit.
pub(in super::super) fn describe(error: &RedisError, limit: Duration) -> String {
    if error.is_timeout() { no_reply(limit) } else { describe_error(error) }
}

/// Returns a reply, unless it is an error or contains one.
pub(in super::super) fn accepted(reply: Value) -> Result<Value, String> {
    reply.extract_error().map_err(|error| describe_error(&error))
}

fn describe_error(error: &RedisError) -> String {
    let text = error.to_string();
    match error.code() {
        _ if text.contains(NO_HELLO) => TOO_OLD.to_owned(),
        Some(code) => describe_code(code, error.detail().unwrap_or_default()),
        None => text,
    }
}

/// Describes an error reply.
pub(super) fn describe_reply(error: &ServerError) -> String {
    describe_code(error.code(), error.details().unwrap_or_default())
}

pub(in crate::broker::redis) fn no_reply(limit: Duration) -> String {
    format!("no reply within {limit:?}")
}

fn describe_code(code: &str, details: &str) -> String {
    let (code, details) = script_error(details).unwrap_or((code, details));
    let details = details.split(QUOTED_ARGUMENTS).next().unwrap_or_default();
    let details: String = details.chars().take(MAX_DETAILS_CHARS).collect();
    let is_known = |(known, part, _): &&(&str, &str, &str)| code == *known && details.contains(part);
    match MEANINGS.iter().find(is_known) {
        Some((_, _, meaning)) => format!("{meaning} ({code} {details})"),
        None => format!("redis answers {code} {details}"),
    }
}

/// Returns the code and the details of an error within a script, as Redis 6.2 answers it:
/// `Error running script (call to …): @user_script:LINE: CODE DETAILS`. Later ones answer the code itself.
fn script_error(details: &str) -> Option<(&str, &str)> {
    let (_, place_and_error) = details.strip_prefix("Error running script")?.split_once("@user_script:")?;
    let (_, error) = place_and_error.split_once(": ")?;
    error.trim_start_matches('-').split_once(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_within_a_script_of_redis_6_2_has_the_meaning_of_its_own_code() {
        for (error, meaning) in [
            ("WRONGTYPE Operation against a key holding the wrong kind of value", "use another broker.redis.prefix"),
            ("-OOM command not allowed when used memory > 'maxmemory'.", "raise its maxmemory"),
        ] {
            let text =
                describe_code("ERR", &format!("Error running script (call to f_9ab6): @user_script:36: {error}"));
            assert!(text.contains(meaning), "{text}");
        }
    }

    #[test]
    fn arguments_of_an_unknown_command_are_not_quoted() {
        let text = describe_code("ERR", "unknown command 'GETDEL', with args beginning with: 'wardcast:t:secret' ");
        assert_eq!(text, format!("{TOO_OLD} (ERR unknown command 'GETDEL')"));
    }

    #[test]
    fn node_of_a_cluster_that_is_used_as_one_server_is_named() {
        for (code, details) in [("MOVED", "14737 127.0.0.1:6379"), ("ERR", "SELECT is not allowed in cluster mode")] {
            let text = describe_code(code, details);
            assert_eq!(text, format!("{NODE_OF_A_CLUSTER} ({code} {details})"));
        }
    }

    #[test]
    fn unknown_error_code_is_named_with_its_details() {
        assert_eq!(describe_code("NEWCODE", "what it is"), "redis answers NEWCODE what it is");
    }
}
