//! Checks that Redis works at this moment, for the readiness of the instance: a publication is accepted, and the pool's
//! connections get replies. That subscriptions work is known from the last probe.

use tokio::{join, time::timeout};

use super::RedisServer;
use crate::broker::BrokerError;

/// Checks publishing and the pool. One check runs at a time, so that frequent requests for the readiness do not become
/// a load on Redis.
///
/// # Errors
/// [`BrokerError::NotReady`], at the latest after twice the timeout.
pub(super) async fn check(server: &RedisServer) -> Result<(), BrokerError> {
    let Ok(_turn) = timeout(server.timeout, server.ready_turn.lock()).await else {
        return Err(BrokerError::NotReady {
            problem: "does not answer",
            detail: "another check of redis takes too long".to_owned(),
        });
    };
    let ping = redis::cmd("PING");
    let publish = async {
        match &server.own_names.load().publish_check {
            Some(name) => server.publisher.publish(name, b"").await.map(drop),
            // A master without partitions gets no publications.
            None => Ok(()),
        }
    };
    let (published, pinged) = join!(publish, server.connector.query::<String>(&ping, server.timeout));
    published.map_err(|error| BrokerError::NotReady {
        problem: "cannot publish",
        detail: format!("redis accepts no publications: {error}"),
    })?;
    pinged.map(drop).map_err(|error| BrokerError::NotReady {
        problem: "does not answer",
        detail: format!("redis does not answer commands: {error}"),
    })
}
