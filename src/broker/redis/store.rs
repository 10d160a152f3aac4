//! What most of the stores in Redis share: calls whose errors name the store, and arguments that are times.

use std::time::Duration;

use redis::{Cmd, FromRedisValue};

use super::RedisContext;
use crate::broker::BrokerError;

/// Something that is stored in Redis, by its name in errors.
pub(super) struct Store(pub(super) &'static str);

impl Store {
    /// Makes a call on the server of the name `home`, which has all keys of the call.
    pub(super) async fn query<T: FromRedisValue>(
        &self,
        context: &RedisContext,
        home: &str,
        call: &Cmd,
    ) -> Result<T, BrokerError> {
        let reply = context.server_of_name(home)?.query(call, context.timeout).await;
        reply.map_err(|error| self.unavailable(&error))
    }

    /// Returns the error for a call that has failed.
    pub(super) fn unavailable(&self, problem: &str) -> BrokerError {
        BrokerError::Unavailable(format!("{}: {problem}", self.0))
    }

    /// Returns the error for a record or a reply that another program has changed.
    pub(super) fn unexpected(&self, what: &str) -> BrokerError {
        self.unavailable(&format!("a {what} has an unexpected form"))
    }
}

/// Returns the milliseconds of a duration.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the milliseconds of an expiry. Redis refuses an expiry of 0.
pub(super) fn expiry_millis(expiry: Duration) -> u64 {
    millis(expiry).max(1)
}
