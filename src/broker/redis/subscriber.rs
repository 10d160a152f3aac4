//! The subscription connection and its supervisor: nothing else goes over it, because redis-rs would hand confirmations
//! to whoever else waits for a reply. It makes Redis agree with [`Wanted`](super::wanted::Wanted), pings, is probed, and
//! after any fault begins anew with everything that is wanted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

use super::{
    Bus,
    connect::{Backoff, Connection},
    health::Link,
    inbox::Inbox,
    probe,
};
use crate::channel::Channel;

/// Channels of one SUBSCRIBE: what Redis does in a millisecond or two.
const BATCH: usize = 500;

/// Keeps the subscriptions, for ever.
pub(super) async fn supervise(bus: Arc<Bus>, inbox: Arc<Inbox>) {
    let mut backoff = Backoff::default();
    let mut has_been_up = false;
    loop {
        let mut held = Duration::ZERO;
        match open(&bus, &inbox).await {
            Ok(session) => {
                let channels = bus.wanted.rise();
                bus.health.up(Link::Subscriptions, Some(channels));
                if has_been_up {
                    bus.metrics.broker_reconnects.inc();
                }
                has_been_up = true;
                let since = Instant::now();
                let cause = session.serve(&bus).await;
                held = since.elapsed();
                bus.wanted.lose();
                bus.health.down(Link::Subscriptions, &cause);
            }
            Err(cause) => {
                bus.wanted.fail(&cause);
                bus.health.down(Link::Subscriptions, &cause);
            }
        }
        sleep(backoff.after(held)).await;
    }
}

/// A connection that is subscribed to everything.
struct Session {
    connection: Connection,
    /// Closed before the next connection is made: what is still in this one's buffers would arrive twice.
    _gate: Gate,
}

struct Gate(Arc<AtomicBool>);

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

async fn open(bus: &Bus, inbox: &Arc<Inbox>) -> Result<Session, String> {
    let is_open = Arc::new(AtomicBool::new(true));
    let gate = Gate(is_open.clone());
    let inbox = inbox.clone();
    let push = move |push| {
        if is_open.load(Ordering::Relaxed) {
            inbox.take(push);
        }
    };
    let mut connection = bus.connector.connect(push).await?;
    connection.redis.subscribe(&bus.keys.own()).await.map_err(|error| format!("subscribing: {error}"))?;
    settle(bus, &mut connection.redis).await?;
    Ok(Session { connection, _gate: gate })
}

impl Session {
    /// Until something is wrong with the connection; says what.
    async fn serve(self, bus: &Bus) -> String {
        let Connection { mut redis, ended } = self.connection;
        tokio::select! {
            cause = tend(bus, &mut redis) => cause,
            () = ended.notified() => "the connection was closed".to_owned(),
            cause = probe::deafness(bus) => cause,
        }
    }
}

/// Subscribes, unsubscribes and pings, one command at a time.
async fn tend(bus: &Bus, redis: &mut MultiplexedConnection) -> String {
    let mut pings = interval_at(Instant::now() + bus.probe_interval, bus.probe_interval);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let done = tokio::select! {
            () = bus.wanted.changed() => settle(bus, redis).await,
            _ = pings.tick() => ping(redis, bus.timeout).await,
        };
        if let Err(cause) = done {
            return cause;
        }
    }
}

/// A frozen Redis keeps its connections open: only a deadline tells it from a quiet one. An error, such as LOADING, is an
/// answer too.
async fn ping(redis: &mut MultiplexedConnection, limit: Duration) -> Result<(), String> {
    match timeout(limit, redis.send_packed_command(&redis::cmd("PING"))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("ping: {error}")),
        Err(_) => Err(format!("ping: no answer within {limit:?}")),
    }
}

/// Makes Redis agree with what is wanted.
async fn settle(bus: &Bus, redis: &mut MultiplexedConnection) -> Result<(), String> {
    while let Some(changes) = bus.wanted.take_changes(BATCH) {
        if !changes.subscribe.is_empty() {
            let subscribed = redis.subscribe(&names(bus, &changes.subscribe)).await;
            subscribed.map_err(|error| format!("subscribing: {error}"))?;
            bus.wanted.confirm(&changes.subscribe);
        }
        if !changes.unsubscribe.is_empty() {
            let unsubscribed = redis.unsubscribe(&names(bus, &changes.unsubscribe)).await;
            unsubscribed.map_err(|error| format!("unsubscribing: {error}"))?;
        }
    }
    Ok(())
}

fn names(bus: &Bus, channels: &[Channel]) -> Vec<String> {
    channels.iter().map(|channel| bus.keys.channel(channel)).collect()
}
