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

use redis::{PushInfo, PushKind, aio::MultiplexedConnection};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until};

use super::{
    super::{RedisContext, inbox::BusInbox},
    RedisServer,
    connect::{ReconnectBackoff, RedisConnection},
    health::RedisLink,
    probe,
    subscribe_commands::{Agreement, ConnectionSubscriptions, Subscriber},
};

/// Time until channels that Redis has refused are requested again.
const REFUSED_RETRY_DELAY: Duration = Duration::from_millis(100);

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
                context.set_subscribed(&server, true);
                let since = Instant::now();
                let error = connection.run_until_failure(&context, &server, channels).await;
                uptime = since.elapsed();
                context.set_subscribed(&server, false);
                server.subscriptions.reset();
                server.health.report_down(RedisLink::Subscriptions, &error);
            }
            Err(error) => {
                server.subscriptions.begin_outage(&error);
                // Channels of other servers must not wait for this one.
                context.revocations.request();
                server.health.report_down(RedisLink::Subscriptions, &error);
            }
        }
        server.is_connected.store(false, Ordering::Relaxed);
        // Also after a connection that failed early: it may have received controls.
        context.deliver.note_lost_controls();
        sleep(backoff.next_delay(uptime)).await;
    }
}

/// A connection that is subscribed to all desired channels.
struct SubscribedConnection {
    connection: RedisConnection,
    subscriptions: Arc<ConnectionSubscriptions>,
    agreement: Agreement,
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
    context: &Arc<RedisContext>,
    server: &Arc<RedisServer>,
    inbox: &Arc<BusInbox>,
) -> Result<SubscribedConnection, String> {
    let is_open = Arc::new(AtomicBool::new(true));
    let push_guard = PushGuard(is_open.clone());
    let subscriptions = Arc::new(ConnectionSubscriptions::default());
    let (context_of_pushes, inbox, from, confirmed) =
        (context.clone(), inbox.clone(), server.clone(), subscriptions.clone());
    let push = move |push: PushInfo| {
        if is_open.load(Ordering::Relaxed) {
            match push.kind {
                PushKind::Message | PushKind::SMessage => inbox.receive(&from, push),
                PushKind::SSubscribe | PushKind::SUnsubscribe | PushKind::Unsubscribe => {
                    confirmed.receive(&context_of_pushes.names, &from, &push);
                }
                _ => {}
            }
        }
    };
    let mut connection = server.connector.connect(push).await?;
    server.is_connected.store(true, Ordering::Relaxed);
    if server.has_own_name(context.names.control_channel()) {
        // Revocations may have been announced meanwhile.
        context.hold_deliveries();
    }
    let subscriber = Subscriber { context, server, subscriptions: &subscriptions };
    let agreement = subscriber.synchronize(&mut connection.redis).await?;
    Ok(SubscribedConnection { connection, subscriptions, agreement, _push_guard: push_guard })
}

impl SubscribedConnection {
    /// Uses the connection until it fails, and returns the reason.
    async fn run_until_failure(self, context: &RedisContext, server: &RedisServer, channels: usize) -> String {
        let (mut redis, mut end) = self.connection.into_parts();
        let subscriber = Subscriber { context, server, subscriptions: &self.subscriptions };
        tokio::select! {
            error = keep_subscribed(&subscriber, &mut redis, self.agreement) => error,
            reason = end.reached() => reason.to_owned(),
            error = probe::run_until_deaf(context, server, channels) => error,
        }
    }
}

/// Subscribes, unsubscribes, and asks for the role of the server, one command at a time, until one fails.
async fn keep_subscribed(
    subscriber: &Subscriber<'_>,
    redis: &mut MultiplexedConnection,
    mut agreement: Agreement,
) -> String {
    let Subscriber { context, server, .. } = subscriber;
    let mut checks = interval_at(Instant::now() + context.probe_interval, context.probe_interval);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut retry_at = None;
    loop {
        server.is_refused.store(agreement != Agreement::Complete, Ordering::Relaxed);
        if let Agreement::Refused(reason) = &agreement {
            server.redirects.iter().for_each(|redirects| redirects.request_topology());
            // What was refused is requested again, unless it moves to another server before.
            let was_refused = retry_at.is_some_and(|retry_at| retry_at <= Instant::now());
            if was_refused {
                server.health.report_down(RedisLink::Subscriptions, &format!("subscribing: {reason}"));
            }
            if was_refused || retry_at.is_none() {
                retry_at = Some(Instant::now() + REFUSED_RETRY_DELAY);
            }
        } else {
            retry_at = None;
        }
        let retry = async {
            match retry_at {
                Some(retry_at) => sleep_until(retry_at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = server.subscriptions.wait_for_change() => {}
            () = server.own_names_changed.notified() => {}
            () = retry => server.subscriptions.retry_refused(),
            _ = checks.tick() => {
                // Also a ping: a frozen Redis keeps its connections open, and only a deadline distinguishes it from an idle one.
                match server.connector.check_role(redis).await {
                    Ok(()) => continue,
                    Err(error) => return format!("ping: {error}"),
                }
            }
        }
        agreement = match subscriber.synchronize(redis).await {
            Ok(agreement) => agreement,
            Err(error) => return error,
        };
    }
}
