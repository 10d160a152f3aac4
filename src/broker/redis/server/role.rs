//! Whether a connection leads to a master. A replica accepts PUBLISH, answers ok, and passes nothing on to its master. So the
//! broker asks for the role after each connect, with each ping, and behind every batch of commands in the same pipeline: a
//! reply counts only if the server is a master after it.
//!
//! ROLE is the best question. A user without the right for it asks `INFO replication`, or else writes a key, which a replica
//! refuses.

use std::sync::atomic::{AtomicUsize, Ordering};

use redis::{Cmd, ServerError, ServerErrorKind, Value, aio::MultiplexedConnection};

/// Lifetime of the key that the third question writes.
const KEY_TTL_MILLIS: u64 = 10_000;

/// Asks for the role of the server, by the first question that the user may ask.
pub(super) struct RoleCheck {
    questions: [RoleQuestion; 3],
    /// The index of a permitted question, as far as is known. All connections have the same user.
    permitted: AtomicUsize,
}

struct RoleQuestion {
    name: &'static str,
    command: Cmd,
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
    /// Creates the check. The third question writes `key`.
    pub(super) fn new(key: &str) -> Self {
        let mut info = redis::cmd("INFO");
        info.arg("replication");
        let mut set = redis::cmd("SET");
        set.arg(key).arg(1).arg("PX").arg(KEY_TTL_MILLIS);
        let questions = [("ROLE", redis::cmd("ROLE")), ("INFO replication", info), ("SET", set)];
        Self {
            questions: questions.map(|(name, command)| RoleQuestion { name, command }),
            permitted: AtomicUsize::new(0),
        }
    }

    /// Returns the question to send behind other commands. [`Self::judge`] reads its reply.
    pub(super) fn question(&self) -> Cmd {
        self.questions[self.permitted.load(Ordering::Relaxed)].command.clone()
    }

    /// Reads the reply to [`Self::question`].
    ///
    /// # Errors
    /// The server is not a master, or does not say so.
    pub(super) fn judge(&self, reply: Value) -> Result<(), String> {
        parse_reply(reply).map_err(|error| match error {
            RoleError::Denied => "the redis user may not ask for the role of the server any more".to_owned(),
            RoleError::NoMaster(problem) => problem,
        })
    }

    /// Asks a new connection, and remembers the first question that its user may ask.
    ///
    /// # Errors
    /// The server is not a master, or does not say so. Each reply has the response timeout of the connection.
    pub(super) async fn ask(&self, redis: &mut MultiplexedConnection) -> Result<(), String> {
        let first = self.permitted.load(Ordering::Relaxed);
        for index in (0..self.questions.len()).map(|offset| (first + offset) % self.questions.len()) {
            let question = &self.questions[index];
            let reply = match redis.send_packed_command(&question.command).await {
                Ok(reply) => parse_reply(reply),
                Err(error) if error.code() == Some("NOPERM") => Err(RoleError::Denied),
                Err(error) => Err(RoleError::NoMaster(error.to_string())),
            };
            match reply {
                Err(RoleError::Denied) => {}
                Err(RoleError::NoMaster(problem)) => return Err(format!("role: {problem}")),
                Ok(()) => {
                    if self.permitted.swap(index, Ordering::Relaxed) != index {
                        let name = question.name;
                        log::warn!("redis user may not run ROLE, grant it with +role instead={name:?}");
                    }
                    return Ok(());
                }
            }
        }
        Err("role: the redis user may run neither ROLE nor INFO nor SET; grant it +role".to_owned())
    }
}

fn parse_reply(reply: Value) -> Result<(), RoleError> {
    match reply {
        // SET was accepted.
        Value::Okay => Ok(()),
        Value::Array(parts) => parse_role(&parts),
        Value::VerbatimString { text, .. } => parse_info(&text),
        Value::BulkString(text) => parse_info(&String::from_utf8_lossy(&text)),
        Value::ServerError(error) => Err(refusal(&error)),
        _ => Err(RoleError::NoMaster("the reply does not contain the role of the server".to_owned())),
    }
}

/// Reads the reply to ROLE: `master …`, `slave HOST PORT …`, or `sentinel …`.
fn parse_role(parts: &[Value]) -> Result<(), RoleError> {
    let text = |index: usize| match parts.get(index) {
        Some(Value::BulkString(text)) => String::from_utf8_lossy(text).into_owned(),
        Some(Value::SimpleString(text)) => text.clone(),
        Some(Value::Int(number)) => number.to_string(),
        _ => String::new(),
    };
    check_role(&text(0), &text(1), &text(2))
}

/// Reads the reply to `INFO replication`: lines of `name:value`.
fn parse_info(info: &str) -> Result<(), RoleError> {
    let value = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim_end()
    };
    check_role(value("role"), value("master_host"), value("master_port"))
}

fn check_role(role: &str, master_host: &str, master_port: &str) -> Result<(), RoleError> {
    match role {
        "master" => Ok(()),
        "slave" => Err(RoleError::NoMaster(format!("redis is a replica of {master_host}:{master_port}"))),
        "sentinel" => Err(RoleError::NoMaster("this is a sentinel, not a redis master".to_owned())),
        other => Err(RoleError::NoMaster(format!("redis has the unknown role {other:?}"))),
    }
}

fn refusal(error: &ServerError) -> RoleError {
    match error.kind() {
        Some(ServerErrorKind::NoPerm) => RoleError::Denied,
        Some(ServerErrorKind::ReadOnly) => RoleError::NoMaster("redis is a replica: it refuses writes".to_owned()),
        _ => RoleError::NoMaster(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn only_a_master_passes() {
        let info = "# Replication\r\nrole:slave\r\nmaster_host:10.0.0.7\r\nmaster_port:6380\r\n";
        let verbatim =
            |text: &str| Value::VerbatimString { format: redis::VerbatimFormat::Text, text: text.to_owned() };
        for master in [
            Value::Array(vec![bulk("master"), Value::Int(0), Value::Array(vec![])]),
            verbatim("# Replication\r\nrole:master\r\nconnected_slaves:0\r\n"),
            bulk("role:master\r\n"),
            Value::Okay,
        ] {
            assert_eq!(parse_reply(master), Ok(()));
        }
        let replica = "redis is a replica of 10.0.0.7:6380";
        for (reply, problem) in [
            (Value::Array(vec![bulk("slave"), bulk("10.0.0.7"), Value::Int(6380), bulk("connected")]), replica),
            (verbatim(info), replica),
            (Value::Array(vec![bulk("sentinel"), Value::Array(vec![])]), "this is a sentinel, not a redis master"),
            (Value::Array(vec![]), "redis has the unknown role \"\""),
            (Value::Nil, "the reply does not contain the role of the server"),
        ] {
            assert_eq!(parse_reply(reply), Err(RoleError::NoMaster(problem.to_owned())));
        }
    }
}
