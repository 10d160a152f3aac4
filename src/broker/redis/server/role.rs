//! Checks whether a connection leads to a master that the hub can use. A replica accepts PUBLISH, answers ok, and passes
//! nothing on to its master. So the broker asks for the role after each connect, with each ping, and behind every batch of
//! commands in the same pipeline: a reply counts only if the server is a master after it.
//!
//! ROLE is the best question: short, and a replica names its master. A user without the right for it asks HELLO, which every
//! user may. HELLO also says after each connect which version of which server this is.

use std::sync::atomic::{AtomicBool, Ordering};

use redis::{Cmd, Pipeline, Value, aio::MultiplexedConnection};

use super::fault;

/// The oldest Redis that has all commands.
const OLDEST_VERSION: (u64, u64) = (6, 2);

/// Asks for the role of the server, by a question that the user may ask.
#[derive(Default)]
pub(super) struct RoleCheck {
    /// Whether the user may not ask ROLE, as far as is known. All connections have the same user.
    asks_hello: AtomicBool,
}

/// Why a reply does not say that the server is a master.
#[derive(Debug, PartialEq, Eq)]
enum RoleError {
    /// The user may not ask this question.
    Denied,
    /// The server is not a master, or has not answered the question. The text is for the operator.
    NoMaster(String),
}

impl RoleCheck {
    /// Returns the question to send behind other commands. [`Self::judge`] reads its reply.
    pub(super) fn question(&self) -> Cmd {
        redis::cmd(if self.asks_hello.load(Ordering::Relaxed) { "HELLO" } else { "ROLE" })
    }

    /// Reads the reply to [`Self::question`].
    ///
    /// # Errors
    /// The server is not a master, or does not say so.
    pub(super) fn judge(&self, reply: Value) -> Result<(), String> {
        parse_role(reply).map_err(|error| match error {
            RoleError::Denied => "the redis user may not run ROLE any more".to_owned(),
            RoleError::NoMaster(problem) => problem,
        })
    }

    /// Asks a new connection for its role and version, and remembers which question its user may ask.
    ///
    /// # Errors
    /// The server is not a master, is too old, or does not answer. Each reply has the response timeout of the connection.
    pub(super) async fn ask(&self, redis: &mut MultiplexedConnection) -> Result<(), String> {
        let mut questions = Pipeline::with_capacity(2);
        questions.cmd("HELLO").cmd("ROLE");
        let replies = redis.send_packed_commands(&questions, 0, 2).await;
        let replies = replies.map_err(|error| format!("asking for the role: {error}"))?;
        let Ok([hello, role]) = <[Value; 2]>::try_from(replies) else {
            return Err("asking for the role: not two replies to two commands".to_owned());
        };
        check_server(&hello)?;
        let role = match parse_role(role) {
            Err(RoleError::Denied) => {
                if !self.asks_hello.swap(true, Ordering::Relaxed) {
                    log::info!("redis user may not run ROLE, asking HELLO instead");
                }
                parse_role(hello)
            }
            result => {
                self.asks_hello.store(false, Ordering::Relaxed);
                result
            }
        };
        role.map_err(|error| match error {
            RoleError::Denied => "the redis user may run neither ROLE nor HELLO".to_owned(),
            RoleError::NoMaster(problem) => problem,
        })
    }
}

/// Checks that the hub can use this server, by its reply to HELLO.
fn check_server(hello: &Value) -> Result<(), String> {
    let Value::Map(fields) = hello else { return Ok(()) };
    let (server, version) = (field(fields, "server"), field(fields, "version"));
    if field(fields, "mode") == "sentinel" {
        return Err("this is a sentinel, not a redis master; name it in broker.redis.sentinel.urls instead".to_owned());
    }
    // The versions of other servers, Valkey among them, are not comparable. All of them are younger than Redis 6.2.
    match parse_version(&version) {
        Some(parsed) if server == "redis" && parsed < OLDEST_VERSION => {
            let (major, minor) = OLDEST_VERSION;
            Err(format!("redis {version} is too old; the hub needs redis {major}.{minor} or newer, or valkey"))
        }
        _ => Ok(()),
    }
}

/// Reads the major and the minor number.
fn parse_version(version: &str) -> Option<(u64, u64)> {
    let mut numbers = version.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn parse_role(reply: Value) -> Result<(), RoleError> {
    match reply {
        // `master …`, `slave HOST PORT …`, or `sentinel …`.
        Value::Array(parts) => {
            let part = |index: usize| parts.get(index).map(text).unwrap_or_default();
            check_role(&part(0), &format!("redis is a replica of {}:{}", part(1), part(2)))
        }
        Value::Map(fields) => check_role(&field(&fields, "role"), "redis is a replica"),
        Value::ServerError(error) if error.code() == "NOPERM" => Err(RoleError::Denied),
        Value::ServerError(error) => Err(RoleError::NoMaster(fault::describe_reply(&error))),
        _ => Err(RoleError::NoMaster("the reply does not contain the role of the server".to_owned())),
    }
}

fn check_role(role: &str, replica: &str) -> Result<(), RoleError> {
    match role {
        "master" => Ok(()),
        // ROLE says slave, HELLO says replica.
        "slave" | "replica" => Err(RoleError::NoMaster(replica.to_owned())),
        other => Err(RoleError::NoMaster(format!("redis has the unknown role {other:?}"))),
    }
}

/// Returns a field of a reply, empty if there is none.
fn field(fields: &[(Value, Value)], name: &str) -> String {
    fields.iter().find(|(key, _)| text(key) == name).map(|(_, value)| text(value)).unwrap_or_default()
}

fn text(value: &Value) -> String {
    match value {
        Value::BulkString(text) => String::from_utf8_lossy(text).into_owned(),
        Value::SimpleString(text) => text.clone(),
        Value::Int(number) => number.to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn hello(fields: &[(&str, &str)]) -> Value {
        Value::Map(fields.iter().map(|(name, value)| (bulk(name), bulk(value))).collect())
    }

    #[test]
    fn only_a_master_passes() {
        let array = |parts: &[&str]| Value::Array(parts.iter().map(|part| bulk(part)).collect());
        for master in [array(&["master", "0"]), hello(&[("server", "redis"), ("role", "master")])] {
            assert_eq!(parse_role(master), Ok(()));
        }
        for (reply, problem) in [
            (
                Value::Array(vec![bulk("slave"), bulk("10.0.0.7"), Value::Int(6380), bulk("connected")]),
                "redis is a replica of 10.0.0.7:6380",
            ),
            (hello(&[("role", "replica")]), "redis is a replica"),
            (array(&["sentinel"]), "redis has the unknown role \"sentinel\""),
            (array(&[]), "redis has the unknown role \"\""),
            (hello(&[]), "redis has the unknown role \"\""),
            (Value::Nil, "the reply does not contain the role of the server"),
        ] {
            assert_eq!(parse_role(reply), Err(RoleError::NoMaster(problem.to_owned())));
        }
    }

    #[test]
    fn server_without_the_commands_of_the_hub_is_named_with_its_version() {
        let checked = |server: &str, version: &str, mode: &str| {
            check_server(&hello(&[("server", server), ("version", version), ("mode", mode)]))
        };
        for (server, version) in [
            ("redis", "6.2.0"),
            ("redis", "7.0.15"),
            ("redis", "10.1"),
            ("valkey", "9.1.2"),
            ("other", "0.1"),
            ("redis", ""),
        ] {
            assert_eq!(checked(server, version, "standalone"), Ok(()), "{server} {version}");
        }
        for version in ["6.0.16", "5.0.14", "6.1.99"] {
            let problem = checked("redis", version, "standalone").unwrap_err();
            assert_eq!(problem, format!("redis {version} is too old; the hub needs redis 6.2 or newer, or valkey"));
        }
        assert!(checked("redis", "7.0.15", "sentinel").unwrap_err().contains("broker.redis.sentinel.urls"));
    }
}
