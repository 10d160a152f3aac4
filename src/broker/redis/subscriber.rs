//! The subscription connection and its supervisor: nothing else goes over it, because redis-rs would hand confirmations
//! to whoever else waits for a reply. It makes Redis agree with [`DesiredSubscriptions`](super::desired_subscriptions::DesiredSubscriptions), pings, is probed, and
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
    RedisContext,
    connect::{ReconnectBackoff, RedisConnection},
    health::RedisLink,
    inbox::BusInbox,
    probe,
};
use crate::channel::Channel;

/// Channels of one SUBSCRIBE: what Redis does in a millisecond or two.
const SUBSCRIBE_BATCH: usize = 500;

/// Keeps the subscriptions, for ever.
pub(super) async fn supervise(context: Arc<RedisContext>, inbox: Arc<BusInbox>) {
    let mut backoff = ReconnectBackoff::default();
    let mut has_been_up = false;
    loop {
        let mut uptime = Duration::ZERO;
        match connect_and_subscribe(&context, &inbox).await {
            Ok(connection) => {
                let channels = context.subscriptions.end_outage();
                context.health.report_up(RedisLink::Subscriptions, Some(channels));
                if has_been_up {
                    context.metrics.broker_reconnects.inc();
                }
                has_been_up = true;
                let since = Instant::now();
                let cause = connection.run_until_failure(&context).await;
                uptime = since.elapsed();
                context.subscriptions.reset();
                context.health.report_down(RedisLink::Subscriptions, &cause);
            }
            Err(cause) => {
                context.subscriptions.begin_outage(&cause);
                context.health.report_down(RedisLink::Subscriptions, &cause);
            }
        }
        sleep(backoff.next_delay(uptime)).await;
    }
}

/// A connection that is subscribed to everything.
struct SubscribedConnection {
    connection: RedisConnection,
    /// Closed before the next connection is made: what is still in this one's buffers would arrive twice.
    _push_guard: PushGuard,
}

struct PushGuard(Arc<AtomicBool>);

impl Drop for PushGuard {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

async fn connect_and_subscribe(context: &RedisContext, inbox: &Arc<BusInbox>) -> Result<SubscribedConnection, String> {
    let is_open = Arc::new(AtomicBool::new(true));
    let push_guard = PushGuard(is_open.clone());
    let inbox = inbox.clone();
    let push = move |push| {
        if is_open.load(Ordering::Relaxed) {
            inbox.receive(push);
        }
    };
    let mut connection = context.connector.connect(push).await?;
    connection.redis.subscribe(&context.names.own_channels()).await.map_err(|error| format!("subscribing: {error}"))?;
    apply_changes(context, &mut connection.redis).await?;
    Ok(SubscribedConnection { connection, _push_guard: push_guard })
}

impl SubscribedConnection {
    /// Until something is wrong with the connection; says what.
    async fn run_until_failure(self, context: &RedisContext) -> String {
        let RedisConnection { mut redis, closed } = self.connection;
        tokio::select! {
            cause = maintain(context, &mut redis) => cause,
            () = closed.notified() => "the connection was closed".to_owned(),
            cause = probe::run_until_deaf(context) => cause,
        }
    }
}

/// Subscribes, unsubscribes and pings, one command at a time.
async fn maintain(context: &RedisContext, redis: &mut MultiplexedConnection) -> String {
    let mut pings = interval_at(Instant::now() + context.probe_interval, context.probe_interval);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let done = tokio::select! {
            () = context.subscriptions.wait_for_change() => apply_changes(context, redis).await,
            _ = pings.tick() => ping(redis, context.timeout).await,
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
async fn apply_changes(context: &RedisContext, redis: &mut MultiplexedConnection) -> Result<(), String> {
    while let Some(changes) = context.subscriptions.take_changes(SUBSCRIBE_BATCH) {
        if !changes.subscribe.is_empty() {
            let subscribed = redis.subscribe(&redis_names(context, &changes.subscribe)).await;
            subscribed.map_err(|error| format!("subscribing: {error}"))?;
            context.subscriptions.confirm(&changes.subscribe);
        }
        if !changes.unsubscribe.is_empty() {
            let unsubscribed = redis.unsubscribe(&redis_names(context, &changes.unsubscribe)).await;
            unsubscribed.map_err(|error| format!("unsubscribing: {error}"))?;
        }
    }
    Ok(())
}

fn redis_names(context: &RedisContext, channels: &[Channel]) -> Vec<String> {
    channels.iter().map(|channel| context.names.publication_channel(channel)).collect()
}
