//! Publishes at a rate until it is stopped, to the hubs in turns.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::{join, spawn};
use crate::api_connection::ApiConnection;
use crate::error::{Context, Result};
use crate::publication_stamp::PublicationStamp;
use crate::{clock, hub_under_test::HubUnderTest};

/// From when the deliveries of a publication are timed that the hub held up, because it had not answered the one before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TimedFrom {
    /// From when it was sent: the deliveries of what is sent after the end of a token count.
    Sent,
    /// From when it was due: the wait is part of its latency.
    Due,
}

/// The publisher.
pub(super) struct Publisher {
    is_stopped: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

impl Publisher {
    /// Starts it.
    pub(super) fn start(
        (hub, channel): (&HubUnderTest<'_>, &str),
        rate: f64,
        size: usize,
        timed_from: TimedFrom,
    ) -> Result<Self> {
        let channel = channel.to_owned();
        let key = hub.api_key()?;
        let connections = hub.targets.iter().map(|target| ApiConnection::open(target, key));
        let mut connections = connections.collect::<Result<Vec<_>>>()?;
        let is_stopped = Arc::new(AtomicBool::new(false));
        let (stopped, interval) = (is_stopped.clone(), Duration::from_secs_f64(1.0 / rate));
        let thread = spawn("publisher", move || {
            let (started, count) = (clock::now(), connections.len());
            let (mut published, mut answered_at) = (0_u64, 0);
            while !stopped.load(Ordering::Relaxed) {
                let due = started + published * interval.as_nanos() as u64;
                clock::sleep(Duration::from_nanos(due.saturating_sub(clock::now())));
                // A frozen node answers later; the others go on.
                let node = published as usize % count.saturating_sub(1).max(1);
                published += 1;
                let was_held_up = answered_at > due && timed_from == TimedFrom::Due;
                let sent_at = if was_held_up { due } else { clock::now() };
                let stamp = PublicationStamp { publisher: 0, sequence: published as u32, sent_at };
                let data = String::from_utf8(stamp.data(size)).context("a stamp")?;
                let body = format!("{{\"channel\":\"{channel}\",\"data\":{data}}}");
                connections[node].call("/api/publish", &body)?;
                answered_at = clock::now();
            }
            Ok(published)
        })?;
        Ok(Self { is_stopped, thread })
    }

    /// Stops it, and returns how many publications there were.
    pub(super) fn stop(self) -> Result<u64> {
        self.is_stopped.store(true, Ordering::Relaxed);
        join(self.thread)
    }
}
