//! The subscription connection and its supervisor. Nothing else uses this connection, because redis-rs could give its
//! confirmations to a command that waits for another reply. The supervisor keeps Redis in agreement with the
//! [`DesiredSubscriptions`](super::desired_subscriptions::DesiredSubscriptions), asks for its role, and probes. After any failure it
//! connects again, and subscribes again to all channels.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{RedisError, aio::MultiplexedConnection};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::{
    super::{RedisContext, inbox::BusInbox},
    RedisServer,
    connect::{ReconnectBackoff, RedisConnection},
    fault::describe,
    health::RedisLink,
    probe,
};
use crate::channel::Channel;

/// Maximum number of channels of one SUBSCRIBE, which Redis handles in a millisecond or two.
const SUBSCRIBE_BATCH: usize = 500;

/// Keeps this instance subscribed, forever: connects, subscribes, and does both again after a failure.
pub(super) async fn supervise(context: Arc<RedisContext>, server: Arc<RedisServer>, inbox: Arc<BusInbox>) {
    let mut backoff = ReconnectBackoff::default();
    let mut was_connected = false;
    loop {
        let mut uptime = Duration::ZERO;
        match connect_and_subscribe(&context, &server, &inbox).await {
            Ok(connection) => {
                if was_connected {
                    context.metrics.broker_reconnects.inc();
                }
                was_connected = true;
                let channels = server.subscriptions.end_outage();
                context.nodes.start_listening();
                context.announcer.request_hello();
                let since = Instant::now();
                let error = connection.run_until_failure(&context, &server, channels).await;
                uptime = since.elapsed();
                context.nodes.stop_listening();
                server.subscriptions.reset();
                server.health.report_down(RedisLink::Subscriptions, &error);
            }
            Err(error) => {
                server.subscriptions.begin_outage(&error);
                server.health.report_down(RedisLink::Subscriptions, &error);
            }
        }
        // Also after a connection that failed early: it may have received controls.
        context.deliver.note_lost_controls();
        sleep(backoff.next_delay(uptime)).await;
    }
}

/// A connection that is subscribed to all desired channels.
struct SubscribedConnection {
    connection: RedisConnection,
    _push_guard: PushGuard,
}

/// Stops the pushes of a connection to the inbox when it is dropped, which is before the next connection is made. What is
/// still in the buffers of the old connection would otherwise arrive twice.
struct PushGuard(Arc<AtomicBool>);

impl Drop for PushGuard {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

async fn connect_and_subscribe(
    context: &RedisContext,
    server: &Arc<RedisServer>,
    inbox: &Arc<BusInbox>,
) -> Result<SubscribedConnection, String> {
    let is_open = Arc::new(AtomicBool::new(true));
    let push_guard = PushGuard(is_open.clone());
    let (inbox, from) = (inbox.clone(), server.clone());
    let push = move |push| {
        if is_open.load(Ordering::Relaxed) {
            inbox.receive(&from, push);
        }
    };
    let mut connection = server.connector.connect(push).await?;
    connection.redis.subscribe(&context.names.own_channels()).await.map_err(|error| subscribe_error(server, &error))?;
    apply_changes(context, server, &mut connection.redis).await?;
    Ok(SubscribedConnection { connection, _push_guard: push_guard })
}

impl SubscribedConnection {
    /// Uses the connection until it fails, and returns the reason.
    async fn run_until_failure(self, context: &RedisContext, server: &RedisServer, channels: usize) -> String {
        let (mut redis, mut end) = self.connection.into_parts();
        tokio::select! {
            error = keep_subscribed(context, server, &mut redis) => error,
            reason = end.reached() => reason.to_owned(),
            error = probe::run_until_deaf(context, server, channels) => error,
        }
    }
}

/// Subscribes, unsubscribes, and asks for the role of the server, one command at a time, until one fails.
async fn keep_subscribed(context: &RedisContext, server: &RedisServer, redis: &mut MultiplexedConnection) -> String {
    let mut checks = interval_at(Instant::now() + context.probe_interval, context.probe_interval);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let result = tokio::select! {
            () = server.subscriptions.wait_for_change() => apply_changes(context, server, redis).await,
            // Also a ping: a frozen Redis keeps its connections open, and only a deadline distinguishes it from an idle one.
            _ = checks.tick() => server.connector.check_role(redis).await.map_err(|error| format!("ping: {error}")),
        };
        if let Err(error) = result {
            return error;
        }
    }
}

/// Makes Redis agree with the desired subscriptions.
async fn apply_changes(
    context: &RedisContext,
    server: &RedisServer,
    redis: &mut MultiplexedConnection,
) -> Result<(), String> {
    while let Some(changes) = server.subscriptions.take_changes(SUBSCRIBE_BATCH) {
        let names = |channels: &[Channel]| -> Vec<String> {
            channels.iter().map(|channel| context.names.publication_channel(channel)).collect()
        };
        if !changes.subscribe.is_empty() {
            let interrupted = server.subscriptions.acknowledged(&changes.subscribe);
            context.deliver.note_interrupted(&interrupted);
            let subscribed = redis.subscribe(&names(&changes.subscribe)).await;
            subscribed.map_err(|error| subscribe_error(server, &error))?;
            server.subscriptions.confirm(&changes.subscribe);
            context.deliver.note_resubscribed(&interrupted);
        }
        if !changes.unsubscribe.is_empty() {
            let unsubscribed = redis.unsubscribe(&names(&changes.unsubscribe)).await;
            unsubscribed.map_err(|error| format!("un{}", subscribe_error(server, &error)))?;
        }
        let (subscribed, unsubscribed) = (changes.subscribe.len(), changes.unsubscribe.len());
        log::debug!("changed redis subscriptions subscribed={subscribed} unsubscribed={unsubscribed}");
    }
    Ok(())
}

fn subscribe_error(server: &RedisServer, error: &RedisError) -> String {
    format!("subscribing: {}", describe(error, server.timeout))
}
