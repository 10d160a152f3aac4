//! Counts the messages that this instance drops because they are not valid messages of another instance. A program that can
//! write to Redis can send as many of them as it likes, so the log gets one line per minute.

use std::{collections::BTreeMap, fmt::Write, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};

use super::envelope::DropReason;
use crate::metrics::Metrics;

/// Minimum time between two log lines.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The messages and records that were dropped since the last log line, by reason.
pub(super) struct RefusedMessages {
    counts: Mutex<BTreeMap<&'static str, u64>>,
    counted: Notify,
    metrics: Arc<Metrics>,
}

impl RefusedMessages {
    /// Creates the counters. [`Self::log_forever`] writes the lines.
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { counts: Mutex::default(), counted: Notify::new(), metrics }
    }

    /// Counts a dropped message.
    pub(super) fn count(&self, DropReason(reason): DropReason) {
        self.metrics.count_refused_bus_message(reason);
        *self.counts.lock().entry(reason).or_default() += 1;
        self.counted.notify_one();
        log::debug!("dropped bus message reason={reason}");
    }

    /// Logs the first dropped message at once, and then what is dropped in each minute.
    pub(super) async fn log_forever(&self) {
        loop {
            self.counted.notified().await;
            if let Some(summary) = self.take_summary() {
                log::warn!("dropped bus messages {summary}");
            }
            sleep(LOG_INTERVAL).await;
        }
    }

    /// Takes the counts for a log line. `None`: nothing was dropped.
    fn take_summary(&self) -> Option<String> {
        let counts = std::mem::take(&mut *self.counts.lock());
        let mut summary = format!("count={}", counts.values().sum::<u64>());
        for (reason, count) in &counts {
            // Writing to a String cannot fail.
            _ = write!(summary, " {reason}={count}");
        }
        (!counts.is_empty()).then_some(summary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_of_dropped_messages_becomes_one_line_with_its_numbers() {
        let metrics = Arc::new(Metrics::default());
        let refused = RefusedMessages::new(metrics.clone());
        for number in 0..1000 {
            refused.count(DropReason(if number % 4 == 0 { "version" } else { "forged" }));
        }
        assert_eq!(refused.take_summary().as_deref(), Some("count=1000 forged=750 version=250"));
        assert_eq!(refused.take_summary(), None);
        assert!(metrics.encode().unwrap().contains("wardcast_bus_refused_total{reason=\"forged\"} 750"));
    }
}
