//! Questions of the metrics to the hubs. Hubs answer them like any other message, so the time until an answer shows how long
//! every message waits for its hub.

use std::time::{Duration, Instant};

use actix::prelude::*;
use futures_util::future::join_all;
use prometheus_client::metrics::histogram::Histogram;
use tokio::time::timeout;

use super::{Hub, Hubs};
use crate::{
    metrics::{Queue, QueueDepth},
    transport,
};

/// How long a scrape waits for the hubs. One that has not answered by then, or has ended, is measured by this time.
const MEASURING_TIMEOUT: Duration = Duration::from_millis(500);

/// Asks a hub how many bytes wait on its thread for clients whose sockets are full.
#[derive(Message)]
#[rtype(result = "Measured")]
struct MeasureHub {
    sent_at: Instant,
}

/// The answer of a hub.
#[derive(Clone, Copy, Debug, MessageResponse)]
struct Measured {
    outbox_bytes: usize,
    /// How long the question waited for the hub.
    delay: Duration,
}

impl Handler<MeasureHub> for Hub {
    type Result = Measured;

    fn handle(&mut self, MeasureHub { sent_at }: MeasureHub, _: &mut Self::Context) -> Measured {
        Measured { outbox_bytes: transport::blocked_bytes_of_this_thread(), delay: sent_at.elapsed() }
    }
}

/// A probe of the broker has arrived at this node; the hub notes how long that took.
#[derive(Clone, Message)]
#[rtype(result = "()")]
pub(super) struct NoteProbe {
    /// When this node has sent it.
    pub(super) sent_at: Instant,
    /// Where its duration is noted, in seconds.
    pub(super) lag: Histogram,
}

impl Handler<NoteProbe> for Hub {
    type Result = ();

    fn handle(&mut self, NoteProbe { sent_at, lag }: NoteProbe, _: &mut Self::Context) {
        lag.observe(sent_at.elapsed().as_secs_f64());
    }
}

impl Hubs {
    /// Notes in the metrics how full the queues of the hubs are, and how long a message waits for the slowest hub.
    pub async fn measure(&self) {
        let (hubs, sent_at) = (self.all(), Instant::now());
        let ask = |hub: &Addr<Hub>| timeout(MEASURING_TIMEOUT, hub.send(MeasureHub { sent_at }));
        let answers = join_all(hubs.iter().map(|(_, hub)| ask(hub))).await;
        let unanswered = Measured { outbox_bytes: 0, delay: MEASURING_TIMEOUT };
        let measured = answers.into_iter().map(|answer| answer.ok().and_then(Result::ok).unwrap_or(unanswered));
        let (bytes, delay) = measured.fold((0, Duration::ZERO), |(bytes, delay), measured| {
            (bytes + measured.outbox_bytes, delay.max(measured.delay))
        });
        let outboxes = QueueDepth::of_bytes(Queue::Outboxes, bytes, None);
        self.metrics().hub_delay.set(delay.as_secs_f64());
        self.metrics().set_queue_depths([self.deliveries_depth(), self.controls_depth(), outboxes]);
    }

    fn deliveries_depth(&self) -> QueueDepth {
        let depths = self.all().iter().map(|(sender, _)| sender.depth()).collect::<Vec<_>>();
        let fullest = depths.into_iter().max_by(|one, other| one.ratio().total_cmp(&other.ratio()));
        fullest.unwrap_or_else(|| QueueDepth::of_bytes(Queue::Deliveries, 0, Some(1)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use actix_rt::Arbiter;

    use super::*;
    use crate::{
        broker::memory::MemoryBroker,
        clock::Clock,
        config::Config,
        hub::testing::{start_hub, test_hubs},
    };

    /// Blocks the thread of a hub until the sender is dropped, and then ends the hub.
    #[derive(Message)]
    #[rtype(result = "()")]
    struct BlockThenStop(mpsc::Receiver<()>);

    impl Handler<BlockThenStop> for Hub {
        type Result = ();

        fn handle(&mut self, BlockThenStop(blocked): BlockThenStop, ctx: &mut Self::Context) {
            let _ = blocked.recv();
            ctx.stop();
        }
    }

    fn outbox_bytes(hubs: &Hubs) -> String {
        let text = hubs.metrics().encode().unwrap();
        let line = text.lines().find(|line| line.starts_with("wardcast_queue_bytes{queue=\"outboxes\"}"));
        line.expect("a gauge").rsplit(' ').next().unwrap().to_owned()
    }

    #[actix_rt::test]
    async fn hub_that_is_blocked_or_has_ended_is_measured_by_the_timeout() {
        let hubs = test_hubs();
        let broker = MemoryBroker::new(hubs.clone(), &Config::default().limits, Clock::default());
        start_hub(&hubs, Arc::new(broker));
        hubs.measure().await;
        assert!(hubs.metrics().hub_delay.get() < MEASURING_TIMEOUT.as_secs_f64());
        let (arbiter, on_arbiter, (started, hub)) = (Arbiter::new(), hubs.clone(), mpsc::channel());
        arbiter.spawn_fn(move || {
            let broker = MemoryBroker::new(on_arbiter.clone(), &Config::default().limits, Clock::default());
            started.send(start_hub(&on_arbiter, Arc::new(broker))).unwrap();
        });
        let (blocker, blocked) = mpsc::channel();
        let stopped = hub.recv().unwrap().send(BlockThenStop(blocked));
        hubs.metrics().set_queue_depths([QueueDepth::of_bytes(Queue::Outboxes, 7, None)]);
        hubs.measure().await;
        assert!(hubs.metrics().hub_delay.get() >= MEASURING_TIMEOUT.as_secs_f64());
        assert_eq!(outbox_bytes(&hubs), "0", "that of the hub that has answered");
        drop(blocker);
        stopped.await.unwrap();
        hubs.metrics().hub_delay.set(0.0);
        hubs.measure().await;
        assert!(hubs.metrics().hub_delay.get() >= MEASURING_TIMEOUT.as_secs_f64(), "it has ended");
        arbiter.stop();
    }
}
