//! Alive and deaf must be impossible: a nonce of our own goes out over the publishing connection and has to come back
//! over the subscriptions. The subscriber runs it beside its connection; the inbox says what was heard.

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

use super::{Bus, envelope, envelope::Refused};

/// While other messages still arrive, the probe may only be late behind them: it gets this many intervals, because a new
/// connection would lose what is under way and be no faster.
const PATIENCE: u32 = 5;

/// The probe that is out.
#[derive(Default)]
pub(super) struct Probe {
    expected: Mutex<Option<(u64, oneshot::Sender<()>)>>,
    nonce: AtomicU64,
}

impl Probe {
    /// Begins with a random number, so that nobody else's probe is taken for ours.
    pub(super) fn new() -> Arc<Self> {
        let nonce = getrandom::u64().unwrap_or_default();
        Arc::new(Self { nonce: AtomicU64::new(nonce), ..Self::default() })
    }

    /// A nonce came in.
    pub(super) fn hear(&self, nonce: u64) -> Result<(), Refused> {
        let (_, heard) =
            self.expected.lock().take_if(|(expected, _)| *expected == nonce).ok_or(Refused("stray_probe"))?;
        // Whoever waited may have given up.
        _ = heard.send(());
        Ok(())
    }

    fn expect(&self) -> (u64, oneshot::Receiver<()>) {
        let (heard, hearing) = oneshot::channel();
        let nonce = self.nonce.fetch_add(1, Ordering::Relaxed);
        *self.expected.lock() = Some((nonce, heard));
        (nonce, hearing)
    }
}

/// Probes until nothing comes back; says why that is so. A probe that could not be sent proves nothing: it is not the
/// subscriber's fault.
pub(super) async fn deafness(bus: &Bus) -> String {
    let interval = bus.probe_interval;
    loop {
        let sent = Instant::now();
        let (nonce, hearing) = bus.probe.expect();
        match bus.publisher.publish(bus.keys.probe(), &envelope::probe(nonce)).await {
            Err(error) => log::debug!("no probe of the subscriptions: {error}"),
            Ok(0) => return "deaf: redis does not know its subscriptions any more".to_owned(),
            Ok(_) if !is_heard(bus, hearing, sent).await => {
                let waited = sent.elapsed();
                return format!("deaf: a probe that redis took {waited:.1?} ago has not come back");
            }
            Ok(_) => _ = bus.metrics.probe_micros.set(micros(sent.elapsed())),
        }
        sleep_until(sent + interval).await;
    }
}

async fn is_heard(bus: &Bus, mut hearing: oneshot::Receiver<()>, sent: Instant) -> bool {
    for round in 1..=PATIENCE {
        let received = bus.received.load(Ordering::Relaxed);
        if timeout_at(sent + bus.probe_interval * round, &mut hearing).await.is_ok() {
            return true;
        }
        if bus.received.load(Ordering::Relaxed) == received {
            return false;
        }
    }
    false
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
