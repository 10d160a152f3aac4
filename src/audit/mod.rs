//! The audit log: who was let in and by which credential, who was refused and why, who logged in and out, what was revoked and by
//! whom. One JSON object per line, without tokens and secrets. It is for those who have to answer such questions later; the log on
//! stderr is for those who run the hub.
//!
//! [`AuditLog::record`] encodes a line and queues it for a thread that writes it. It never waits: a line for which there is no room
//! is lost, counted, and a later line says how many were.

mod event;
mod writer;

use std::{
    fmt, io,
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

use serde::ser::{SerializeMap, Serializer};
use tokio::sync::oneshot;
use uuid::Uuid;

pub use self::event::{AuditEvent, AuditFields};
use self::{
    event::{AuditValue, RateKey},
    writer::{Message, Output, Writer},
};
use crate::{
    clock::Clock,
    config::AuditConfig,
    metrics::{Metrics, Queue, QueueDepth},
    rate_limit::KeyedRateLimiter,
};

/// Interval at which a flush tries again while the queue is full.
const FLUSH_RETRY: Duration = Duration::from_millis(10);

/// Why the audit log cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", path.display())]
pub struct AuditError {
    path: PathBuf,
    error: io::Error,
}

/// The audit log of one instance, shared by all its parts. Without `audit.output` it records nothing.
pub struct AuditLog(Option<OpenLog>);

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog").field("is_enabled", &self.is_enabled()).finish_non_exhaustive()
    }
}

struct OpenLog {
    queue: SyncSender<Message>,
    max_queued: usize,
    state: Arc<QueueState>,
    lines: LineEncoder,
    metrics: Arc<Metrics>,
    /// Lines about refusals of one address, and about refreshes of one session.
    rates: KeyedRateLimiter,
    /// Lines about refusals, of all addresses together.
    refusal_rate: KeyedRateLimiter,
}

/// The state that the queue and the writer share.
#[derive(Default)]
struct QueueState {
    /// Lines that were lost, and not reported yet.
    lost: AtomicU64,
    /// Lines that are not taken by the writer yet.
    queued: AtomicUsize,
    /// Lines above a rate limit, and not reported yet.
    suppressed: AtomicU64,
    /// Whether the file is to be opened again.
    reopen: AtomicBool,
}

impl QueueState {
    /// Returns the counter that these lines report.
    fn counter_of(&self, report: AuditEvent) -> &AtomicU64 {
        if report == AuditEvent::LinesLost { &self.lost } else { &self.suppressed }
    }
}

impl AuditLog {
    /// Returns an audit log that records nothing.
    pub fn disabled() -> Arc<Self> {
        Arc::new(Self(None))
    }

    /// Opens the file and starts the thread that writes to it.
    ///
    /// # Errors
    /// [`AuditError`]: the file cannot be opened.
    pub fn start(
        config: &AuditConfig,
        node: Arc<str>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, AuditError> {
        let Some(output) = config.output.as_deref().map(Output::from_setting) else { return Ok(Self::disabled()) };
        let at_output = |error| AuditError { path: output.path(), error };
        let file = output.open().map_err(at_output)?;
        let (queue, messages) = sync_channel(config.queue);
        let state = Arc::new(QueueState::default());
        let lines = LineEncoder { node, clock };
        let writer = Writer::new(output.clone(), file, messages, state.clone(), lines.clone(), metrics.clone());
        writer.spawn().map_err(at_output)?;
        let rates = |per_second: u32| KeyedRateLimiter::new(per_second, per_second.saturating_mul(2));
        let (rates, refusal_rate) = (rates(config.lines_per_second), rates(config.refusals_per_second));
        let log = Arc::new(Self(Some(OpenLog {
            queue,
            max_queued: config.queue,
            state,
            lines,
            metrics,
            rates,
            refusal_rate,
        })));
        log.record(AuditEvent::Started, AuditFields::default());
        Ok(log)
    }

    /// Checks that [`Self::start`] could open the file. Creates none.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn check(config: &AuditConfig) -> Result<(), AuditError> {
        let Some(output) = config.output.as_deref().map(Output::from_setting) else { return Ok(()) };
        output.check().map_err(|error| AuditError { path: output.path(), error })
    }

    /// Returns whether anything is recorded. Callers need not gather what only a line would have.
    pub fn is_enabled(&self) -> bool {
        self.0.is_some()
    }

    /// Returns how full the queue of the writer is; `None` without an audit log.
    pub fn queue_depth(&self) -> Option<QueueDepth> {
        let log = self.0.as_ref()?;
        Some(QueueDepth::of_entries(Queue::AuditLines, log.state.queued.load(Ordering::Relaxed), log.max_queued))
    }

    /// Queues a line. Never waits.
    pub fn record(&self, event: AuditEvent, fields: AuditFields<'_>) {
        let Some(log) = &self.0 else { return };
        if !log.admits(event, &fields) {
            log.metrics.count_audit_lines("suppressed", 1);
            return log.count(AuditEvent::LinesSuppressed);
        }
        let Ok(line) = log.lines.encode(event, &fields) else { return };
        log.state.queued.fetch_add(1, Ordering::Relaxed);
        if log.queue.try_send(Message::Line(line)).is_err() {
            log.state.queued.fetch_sub(1, Ordering::Relaxed);
            log.metrics.count_audit_lines("lost", 1);
            log.count(AuditEvent::LinesLost);
        }
    }

    /// Has the file opened again, for programs that have renamed it.
    pub fn reopen(&self) {
        if let Some(log) = &self.0 {
            log.state.reopen.store(true, Ordering::Release);
            // If the queue is full, the writer has work and will see the flag.
            let _ = log.queue.try_send(Message::Wake);
        }
    }

    /// Waits until everything that was recorded before is written, but at most for `limit`.
    pub async fn flush(&self, limit: Duration) {
        let Some(log) = &self.0 else { return };
        let flushed = async {
            let (sender, flushed) = oneshot::channel();
            let mut message = Message::Flush(sender);
            while let Err(TrySendError::Full(returned)) = log.queue.try_send(message) {
                message = returned;
                tokio::time::sleep(FLUSH_RETRY).await;
            }
            let _ = flushed.await;
        };
        let _ = tokio::time::timeout(limit, flushed).await;
    }
}

impl OpenLog {
    /// Returns whether the rate limits permit a line. A flood must not fill the disk.
    fn admits(&self, event: AuditEvent, fields: &AuditFields<'_>) -> bool {
        match event.rate_key() {
            RateKey::None => true,
            RateKey::Address => {
                self.rates.charge(&address_or_client(fields)).is_ok() && self.refusal_rate.charge(&()).is_ok()
            }
            RateKey::AddressWithoutUser => {
                // Beside the lines about refusals: a flood of these hides none of those.
                fields.user.is_some() || self.rates.charge(&(event.name(), address_or_client(fields))).is_ok()
            }
            RateKey::Client => self.rates.charge(&fields.client).is_ok(),
        }
    }

    /// Counts a line that is not queued. The first one wakes the writer, which reports the count.
    fn count(&self, report: AuditEvent) {
        if self.state.counter_of(report).fetch_add(1, Ordering::AcqRel) == 0 {
            let _ = self.queue.try_send(Message::Wake);
        }
    }
}

/// Returns the address of a line; its client if it has none.
fn address_or_client(fields: &AuditFields<'_>) -> (Option<IpAddr>, Option<Option<Uuid>>) {
    (fields.address, fields.address.is_none().then_some(fields.client))
}

/// Encodes lines.
#[derive(Clone)]
struct LineEncoder {
    /// The id of this instance.
    node: Arc<str>,
    clock: Clock,
}

impl LineEncoder {
    /// Encodes a line, with its line break.
    fn encode(&self, event: AuditEvent, fields: &AuditFields<'_>) -> serde_json::Result<Vec<u8>> {
        let mut line = Vec::with_capacity(256);
        let mut serializer = serde_json::Serializer::new(&mut line);
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("time", &self.clock.now().with_millis().to_string())?;
        (&*self.node).serialize_into("node", &mut object)?;
        event.name().serialize_into("event", &mut object)?;
        fields.serialize_into(&mut object)?;
        object.end()?;
        line.push(b'\n');
        Ok(line)
    }
}

#[cfg(test)]
mod tests;
