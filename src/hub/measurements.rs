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

/// How long a scrape waits for the hubs. One that has not answered by then is measured by this time.
const MEASURING_TIMEOUT: Duration = Duration::from_millis(500);

/// Asks a hub how many bytes wait on its thread for clients whose sockets are full.
#[derive(Message)]
#[rtype(result = "Measured")]
struct MeasureHub {
    sent_at: Instant,
}

/// The answer of a hub.
#[derive(Clone, Copy, Debug, Default, MessageResponse)]
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
        let answers = join_all(hubs.iter().map(|(_, hub)| hub.send(MeasureHub { sent_at })));
        let answers = timeout(MEASURING_TIMEOUT, answers).await;
        let mut depths = vec![self.deliveries_depth(), self.controls_depth()];
        let delay = match answers {
            Ok(answers) => {
                let answers: Vec<Measured> = answers.into_iter().flatten().collect();
                let bytes = answers.iter().map(|measured| measured.outbox_bytes).sum();
                depths.push(QueueDepth::of_bytes(Queue::Outboxes, bytes, None));
                answers.iter().map(|measured| measured.delay).max().unwrap_or_default()
            }
            Err(_) => sent_at.elapsed(),
        };
        self.metrics().hub_delay.set(delay.as_secs_f64());
        self.metrics().set_queue_depths(depths);
    }

    fn deliveries_depth(&self) -> QueueDepth {
        let depths = self.all().iter().map(|(sender, _)| sender.depth()).collect::<Vec<_>>();
        let fullest = depths.into_iter().max_by(|one, other| one.ratio().total_cmp(&other.ratio()));
        fullest.unwrap_or_else(|| QueueDepth::of_bytes(Queue::Deliveries, 0, Some(1)))
    }
}
