//! Checks that Redis works at this moment, for the readiness of the instance: a publication is accepted, and the pool's
//! connections get replies. That subscriptions work is known from the last probe.

use tokio::{
    join,
    sync::Mutex as AsyncMutex,
    time::{Instant, timeout},
};

use super::RedisServer;
use crate::broker::BrokerError;

/// The check that runs, which holds the lock, and the last one that has ended.
#[derive(Default)]
pub(super) struct ReadyCheck {
    last: AsyncMutex<Option<EndedCheck>>,
}

struct EndedCheck {
    at: Instant,
    result: Result<(), BrokerError>,
}

/// Checks publishing and the pool. One check runs at a time, so that frequent requests for the readiness do not become
/// a load on Redis. The requests that come meanwhile share its result: if each had a check of its own, anyone could ask so often that
/// the last of them wait for too long, and count as not ready.
///
/// # Errors
/// [`BrokerError::NotReady`], at the latest after twice the timeout.
pub(super) async fn check(server: &RedisServer) -> Result<(), BrokerError> {
    let asked_at = Instant::now();
    let Ok(mut last) = timeout(server.timeout, server.ready_check.last.lock()).await else {
        return Err(BrokerError::NotReady {
            problem: "does not answer",
            detail: "another check of redis takes too long".to_owned(),
        });
    };
    if let Some(EndedCheck { at, result }) = &*last
        && *at >= asked_at
    {
        return result.clone();
    }
    let result = ask(server).await;
    *last = Some(EndedCheck { at: Instant::now(), result: result.clone() });
    result
}

async fn ask(server: &RedisServer) -> Result<(), BrokerError> {
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
