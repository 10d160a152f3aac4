//! Alive and deaf must be impossible: a nonce of our own goes out over the publishing connection and has to come back
//! over the subscriptions. The subscriber runs it beside its connection; the inbox says what was sender.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until, timeout_at},
};

use super::{RedisContext, envelope, envelope::DropReason};

/// While other messages still arrive, the probe may only be late behind them: it gets this many intervals, because a new
/// connection would lose what is under way and be no faster.
const MAX_LATE_INTERVALS: u32 = 5;

/// The probe that is out.
#[derive(Default)]
pub(super) struct SubscriptionProbe {
    expected: Mutex<Option<(u64, oneshot::Sender<()>)>>,
    nonce: AtomicU64,
}

impl SubscriptionProbe {
    /// Begins with a random number, so that nobody else's probe is taken for ours.
    pub(super) fn new() -> Arc<Self> {
        let nonce = getrandom::u64().unwrap_or_default();
        Arc::new(Self { nonce: AtomicU64::new(nonce), ..Self::default() })
    }

    /// A nonce came in.
    pub(super) fn receive(&self, nonce: u64) -> Result<(), DropReason> {
        let (_, sender) =
            self.expected.lock().take_if(|(expected, _)| *expected == nonce).ok_or(DropReason("stray_probe"))?;
        // Whoever waited may have given up.
        _ = sender.send(());
        Ok(())
    }

    fn start(&self) -> (u64, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        let nonce = self.nonce.fetch_add(1, Ordering::Relaxed);
        *self.expected.lock() = Some((nonce, sender));
        (nonce, receiver)
    }
}

/// Probes until nothing comes back; says why that is so. A probe that could not be sent proves nothing: it is not the
/// subscriber's fault.
pub(super) async fn run_until_deaf(context: &RedisContext) -> String {
    let interval = context.probe_interval;
    loop {
        let sent = Instant::now();
        let (nonce, receiver) = context.probe.start();
        match context.publisher.publish(context.names.probe_channel(), &envelope::encode_probe(nonce)).await {
            Err(error) => log::debug!("no probe of the subscriptions: {error}"),
            Ok(0) => return "deaf: redis does not know its subscriptions any more".to_owned(),
            Ok(_) if !is_received(context, receiver, sent).await => {
                let waited = sent.elapsed();
                return format!("deaf: a probe that redis took {waited:.1?} ago has not come back");
            }
            Ok(_) => _ = context.metrics.probe_microseconds.set(micros(sent.elapsed())),
        }
        sleep_until(sent + interval).await;
    }
}

async fn is_received(context: &RedisContext, mut receiver: oneshot::Receiver<()>, sent: Instant) -> bool {
    for round in 1..=MAX_LATE_INTERVALS {
        let received = context.received.load(Ordering::Relaxed);
        if timeout_at(sent + context.probe_interval * round, &mut receiver).await.is_ok() {
            return true;
        }
        if context.received.load(Ordering::Relaxed) == received {
            return false;
        }
    }
    false
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
