//! Wakes tests that wait for a broker, without polling. Two kinds of events wake them: log lines of the broker, which logs
//! every change of its state, and deliveries to the hubs of a test.

use std::sync::LazyLock;

use tokio::{sync::watch, time::timeout};

use super::PATIENCE;

static EVENTS: LazyLock<watch::Sender<()>> = LazyLock::new(watch::Sender::default);

/// Wakes all waiting tests.
pub fn notify() {
    EVENTS.send_replace(());
}

/// Wakes all waiting tests if the log line comes from the broker.
pub fn notify_of_log(record: &log::Record<'_>) {
    if record.target().starts_with("wardcast::broker") {
        notify();
    }
}

/// Waits until `holds`, which is checked at once and again after every event.
pub async fn wait_until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let mut events = EVENTS.subscribe();
    let wait = async {
        loop {
            events.mark_unchanged();
            if holds().await {
                return;
            }
            events.changed().await.expect("the sender lives forever");
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}
