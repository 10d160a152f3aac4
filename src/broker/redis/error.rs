//! The errors of the Redis broker: at its start, and of its calls.

use crate::broker::BrokerError;

/// Why the broker did not start. A Redis that does not answer is not a reason: the broker keeps trying to connect.
#[derive(Debug, thiserror::Error)]
pub enum BrokerStartError {
    /// `broker.redis` is invalid.
    #[error(transparent)]
    Config(#[from] RedisConfigError),
    /// The system gives no thread, or no runtime for it.
    #[error("cannot start the redis thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Why the configuration of Redis, or a file that it names, cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct RedisConfigError {
    /// The key.
    pub key: &'static str,
    /// The problem and its remedy. It does not contain the URL or a password.
    pub problem: String,
}

pub(super) fn stopped_error() -> BrokerError {
    BrokerError::Unavailable("the broker has stopped".to_owned())
}

pub(super) fn no_receiver_error() -> BrokerError {
    BrokerError::Unavailable("no instance is subscribed to the control channel, not even this one".to_owned())
}
