//! Detects a subscription connection that is alive but receives nothing: a nonce that goes out over the publishing connection
//! has to arrive over the subscriptions. The subscriber runs the probe next to its connection; the inbox reports what arrives.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    super::{
        RedisContext,
        envelope::{self, DropReason},
    },
    RedisServer,
    connect::ReconnectBackoff,
    health::RedisLink,
};

/// How many intervals a probe may take while other messages arrive. It may only be late behind them, and a new connection
/// would lose what is on its way and be no faster.
const MAX_LATE_INTERVALS: u32 = 5;

/// The nonce that is on its way.
pub(super) struct SubscriptionProbe {
    expected: Mutex<Option<SentProbe>>,
    next_nonce: AtomicU64,
}

struct SentProbe {
    nonce: u64,
    sent: Instant,
    arrived: oneshot::Sender<()>,
}

impl SubscriptionProbe {
    /// Starts with a random nonce, so that the probe of another run is not mistaken for one of this run.
    pub(super) fn new() -> Self {
        Self { expected: Mutex::default(), next_nonce: AtomicU64::new(getrandom::u64().unwrap_or_default()) }
    }

    /// Reports a nonce that has arrived. Returns when it was sent.
    pub(super) fn receive(&self, nonce: u64) -> Result<Instant, DropReason> {
        let expected = self.expected.lock().take_if(|expected| expected.nonce == nonce);
        let SentProbe { sent, arrived, .. } = expected.ok_or(DropReason("stray_probe"))?;
        // The probe may have stopped waiting.
        _ = arrived.send(());
        Ok(sent)
    }

    fn start(&self, sent: Instant) -> (u64, oneshot::Receiver<()>) {
        let (arrived, arrival) = oneshot::channel();
        let nonce = self.next_nonce.fetch_add(1, Ordering::Relaxed);
        *self.expected.lock() = Some(SentProbe { nonce, sent, arrived });
        (nonce, arrival)
    }
}

/// Sends probes until one does not arrive, and returns the reason. When the first one has arrived, the subscriptions work. A
/// probe that cannot be sent proves nothing: that is not the fault of the subscriptions.
pub(super) async fn run_until_deaf(context: &RedisContext, server: &RedisServer, channels: usize) -> String {
    let mut backoff = ReconnectBackoff::default();
    let mut has_arrived_before = false;
    loop {
        let sent = Instant::now();
        let own_names = server.own_names.load_full();
        let Some(name) = &own_names.probe else {
            // A master without partitions has no subscriptions that could be deaf.
            server.health.report_up(RedisLink::Subscriptions, Some(channels));
            sleep_until(sent + context.probe_interval).await;
            continue;
        };
        let has_moved = || server.own_names.load().probe != own_names.probe;
        let (nonce, arrival) = server.probe.start(sent);
        let message = context.signer.sign(envelope::encode_probe(nonce));
        match server.publisher.publish(name, &message).await {
            Err(error) => log::debug!("subscription probe not sent error={:?}", error.to_string()),
            Ok(_) if has_moved() => {}
            Ok(0) => return "the subscriptions receive nothing: redis has lost them".to_owned(),
            Ok(_) if !has_arrived(context, server, arrival, sent).await && !has_moved() => {
                return format!(
                    "the subscriptions receive nothing: a probe that redis accepted {:.1?} ago has not arrived",
                    sent.elapsed()
                );
            }
            Ok(_) => {
                has_arrived_before = true;
                if !server.is_refused.load(Ordering::Relaxed) {
                    server.health.report_up(RedisLink::Subscriptions, Some(channels));
                }
                context.metrics.set_probe_microseconds(server.address(), micros(sent.elapsed()));
                log::trace!("subscription probe arrived after={:.1?}", sent.elapsed());
            }
        }
        // The instance becomes ready with the first probe, so that one is repeated as soon as publishing may work.
        let pause = if has_arrived_before { context.probe_interval } else { backoff.next_delay(Duration::ZERO) };
        sleep_until(sent + pause).await;
    }
}

async fn has_arrived(
    context: &RedisContext,
    server: &RedisServer,
    mut arrival: oneshot::Receiver<()>,
    sent: Instant,
) -> bool {
    for round in 1..=MAX_LATE_INTERVALS {
        let received = server.received.load(Ordering::Relaxed);
        if timeout_at(sent + context.probe_interval * round, &mut arrival).await.is_ok() {
            return true;
        }
        if server.received.load(Ordering::Relaxed) == received {
            return false;
        }
    }
    false
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
