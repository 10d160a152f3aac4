//! Sends the lanes of the outbox to the backend: for each lane one batch at a time, in order, again and again until the backend
//! has accepted it. All lanes share one circuit breaker. The events of a call that the backend refuses for `hooks.events.refused_for` are
//! sent one by one, and those that it refuses then are dropped.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::{HeaderMap, StatusCode};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::refused_call::RefusedCall;
use crate::{
    broker::event_outbox::{EVENT_LANES, EntryId, EventOutbox},
    certificate::CertificateError,
    clock::Clock,
    config::HooksConfig,
    hooks::{
        circuit_breaker::{CircuitBreaker, Transition},
        client::{HookClient, HookError},
        signature::{CallSigner, SIGNATURE},
    },
    http_client::RequestError,
    log_throttle::LogThrottle,
    metrics::Metrics,
};

/// The name of the calls in `wardcast_hook_calls_total`.
const HOOK: &str = "events";
/// Pause after the first failure of a lane. It doubles with each further one.
const FIRST_RETRY_DELAY: Duration = Duration::from_millis(100);
/// Maximum size of a body. A batch that is larger is sent in parts.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// How often a node looks for events in lanes that another node was sending.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How much longer a lane belongs to a node than its calls and pauses last.
const LEASE_MARGIN: Duration = Duration::from_secs(2);
/// Minimum time between two log lines about calls that the backend has not accepted.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Sends events.
pub(super) struct EventSender {
    client: HookClient,
    signer: Arc<CallSigner>,
    outbox: Arc<dyn EventOutbox>,
    timeout: Duration,
    batch: usize,
    retry_delay: Duration,
    refused_for: Duration,
    breaker: CircuitBreaker,
    failures_logged: LogThrottle,
    /// A pause was logged, and no call has been accepted since.
    was_paused: AtomicBool,
    /// Notified when calls pass again.
    recovered: Notify,
    /// For each lane: notified when events were appended.
    queued: [Notify; EVENT_LANES],
    /// The events that wait in each lane.
    waiting: [AtomicUsize; EVENT_LANES],
    clock: Clock,
    metrics: Arc<Metrics>,
}

/// The outcome of a batch.
enum Sent {
    /// The backend has accepted the events up to this one.
    Accepted(EntryId),
    /// The backend has refused them: this many, up to this one.
    Refused(usize, EntryId),
    /// They could not be sent, or the backend has failed.
    Failed,
}

impl EventSender {
    /// Creates the sender if there is an endpoint.
    pub(super) fn from_config(
        config: &HooksConfig,
        outbox: Arc<dyn EventOutbox>,
        signer: &Arc<CallSigner>,
        clock: &Clock,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<Self>, CertificateError> {
        let events = &config.events;
        let Some(endpoint) = events.endpoint.clone() else { return Ok(None) };
        Ok(Some(Self {
            client: HookClient::new(endpoint, config.ca.as_deref(), config.response_bytes)?,
            signer: signer.clone(),
            outbox,
            timeout: events.timeout,
            batch: events.batch,
            retry_delay: events.retry_delay,
            refused_for: events.refused_for,
            breaker: CircuitBreaker::new(config.failures, config.pause),
            failures_logged: LogThrottle::new(LOG_INTERVAL),
            was_paused: AtomicBool::new(false),
            recovered: Notify::new(),
            queued: Default::default(),
            waiting: Default::default(),
            clock: clock.clone(),
            metrics: metrics.clone(),
        }))
    }

    /// Notes that events were appended to a lane.
    pub(super) fn note_queued(&self, lane: usize, count: usize) {
        if count > 0 {
            self.metrics.count_hook_events("queued", count);
            self.queued[lane].notify_one();
        }
    }

    /// Sends a lane: until it is empty once `transferred` is cancelled, which says that nothing more will be appended.
    pub(super) async fn run_lane(&self, lane: usize, transferred: &CancellationToken) {
        // Each call and each pause fits into the lease, which every read renews.
        let lease = self.timeout + self.retry_delay + LEASE_MARGIN;
        let (mut accepted, mut failures) = (None, 0);
        let mut refused: Option<RefusedCall> = None;
        loop {
            let is_stopping = transferred.is_cancelled();
            let events = match self.outbox.read(lane, accepted, self.batch, lease).await {
                Ok(page) => {
                    accepted = None;
                    self.note_waiting(lane, page.waiting);
                    page.events.unwrap_or_default()
                }
                Err(error) if is_stopping => {
                    return log::debug!("events stay in the outbox lane={lane} error={:?}", error.to_string());
                }
                Err(error) => {
                    log::debug!("could not read events from the broker lane={lane} error={:?}", error.to_string());
                    sleep(POLL_INTERVAL).await;
                    continue;
                }
            };
            // Later events have a time of their own, and so have all events when another node has had the lane.
            refused = refused.filter(|call| call.has_first_of(&events));
            if events.is_empty() {
                if is_stopping {
                    return;
                }
                self.wait_for_events(lane, transferred).await;
                continue;
            }
            let is_single = refused.as_ref().is_some_and(|call| call.age() >= self.refused_for);
            let sent = match &refused {
                Some(_) if is_single => self.send(&events[..1]).await,
                Some(call) => self.send(call.part_of(&events)).await,
                None => self.send(&events).await,
            };
            match sent {
                Sent::Accepted(last) => (accepted, failures) = (Some(last), 0),
                Sent::Refused(count, last) if is_single => {
                    self.metrics.count_hook_events("refused", count);
                    log::error!(
                        "dropped event that the backend refuses lane={lane} entry={last} error=\"hooks.events.refused_for is over\""
                    );
                    accepted = Some(last);
                }
                Sent::Refused(_, last) => {
                    let call = refused.get_or_insert_with(|| RefusedCall::new(last, lease));
                    call.note_refused(Instant::now());
                    failures += 1;
                    self.pause(failures).await;
                }
                Sent::Failed => {
                    refused.iter_mut().for_each(RefusedCall::note_failed);
                    failures += 1;
                    self.pause(failures).await;
                }
            }
        }
    }

    async fn pause(&self, failures: u32) {
        tokio::select! {
            () = sleep(jittered(retry_delay(failures, self.retry_delay))) => {}
            () = self.recovered.notified() => {}
        }
    }

    async fn wait_for_events(&self, lane: usize, transferred: &CancellationToken) {
        let others_may_have_left_some = self.outbox.renew_interval().is_some();
        let poll = async {
            if others_may_have_left_some {
                sleep(POLL_INTERVAL).await;
            } else {
                std::future::pending().await
            }
        };
        tokio::select! {
            () = self.queued[lane].notified() => {}
            () = poll => {}
            () = transferred.cancelled() => {}
        }
    }

    /// Sends a batch, or the first part of it.
    async fn send(&self, events: &[(EntryId, String)]) -> Sent {
        let Some((body, last, count)) = write_body(events) else { return Sent::Failed };
        if count == 0 {
            return Sent::Accepted(last);
        }
        if !self.breaker.admits(self.clock.monotonic_now()) {
            return Sent::Failed;
        }
        let result = timeout(self.timeout, self.client.post(&body, &self.headers(&body))).await;
        let error = match result {
            Ok(Ok(_)) => None,
            // The backend has nothing to say, so neither status nor body matters.
            Ok(Err(HookError::Request(RequestError::Status(status)))) if status.is_success() => None,
            Ok(Err(HookError::Request(RequestError::TooLarge(..)))) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some(HookError::TIMED_OUT),
        };
        self.metrics.count_hook_call(HOOK, error.as_ref().map_or("answered", HookError::outcome));
        self.metrics.count_hook_events(if error.is_none() { "sent" } else { "failed" }, count);
        self.note_result(error.as_ref());
        match error {
            None => Sent::Accepted(last),
            Some(HookError::Request(RequestError::Status(status))) if is_refusal(status) => Sent::Refused(count, last),
            Some(_) => Sent::Failed,
        }
    }

    fn headers(&self, body: &[u8]) -> HeaderMap {
        let signature = self.signer.header(body, self.clock.now());
        signature.into_iter().map(|signature| (SIGNATURE, signature)).collect()
    }

    /// Tells the breaker, and logs what changes. As with other hooks, only an outage counts as a failure: a refusal may be caused by one
    /// event, and must not hold up other lanes.
    fn note_result(&self, error: Option<&HookError>) {
        let endpoint = self.client.endpoint();
        let transition = self.breaker.record(!error.is_some_and(HookError::is_outage), self.clock.monotonic_now());
        if transition == Some(Transition::Recovered) {
            self.recovered.notify_waiters();
        }
        match (transition, error) {
            (Some(Transition::Opened), Some(error)) => {
                self.was_paused.store(true, Ordering::Relaxed);
                log::error!("events paused endpoint={endpoint} error={:?}", error.to_string());
            }
            // The call that ends a pause may still have been refused.
            (_, None) if self.was_paused.swap(false, Ordering::Relaxed) => {
                log::info!("events accepted again endpoint={endpoint}");
            }
            (_, Some(error)) => match self.failures_logged.count(Instant::now()) {
                Some(count) => {
                    log::warn!("events not accepted endpoint={endpoint} count={count} error={:?}", error.to_string());
                }
                None => log::debug!("events not accepted endpoint={endpoint} error={:?}", error.to_string()),
            },
            (_, None) => {}
        }
    }

    fn note_waiting(&self, lane: usize, count: usize) {
        self.waiting[lane].store(count, Ordering::Relaxed);
        let all: usize = self.waiting.iter().map(|waiting| waiting.load(Ordering::Relaxed)).sum();
        self.metrics.hook_events_waiting.set(i64::try_from(all).unwrap_or(i64::MAX));
    }
}

/// Returns whether a status says that the backend does not want the events, now or later.
fn is_refusal(status: StatusCode) -> bool {
    let may_pass =
        [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS].contains(&status);
    status.is_client_error() && !may_pass
}

/// Writes the body for as many events as it has room for, but at least one. Returns it, the last of these events, and their number.
/// An empty text is none of Wardcast's events.
fn write_body(events: &[(EntryId, String)]) -> Option<(Bytes, EntryId, usize)> {
    let (mut body, mut last, mut count) = (String::from("{\"events\":["), None, 0);
    for (id, event) in events {
        if count > 0 && body.len() + event.len() > MAX_BODY_BYTES {
            break;
        }
        last = Some(*id);
        if !event.is_empty() {
            body.push_str(if count > 0 { "," } else { "" });
            body.push_str(event);
            count += 1;
        }
    }
    body.push_str("]}");
    Some((body.into(), last?, count))
}

fn retry_delay(failures: u32, maximum: Duration) -> Duration {
    FIRST_RETRY_DELAY.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX)).min(maximum)
}

/// Shortens a pause by up to a half, at random, so that lanes and nodes do not all try at once.
fn jittered(delay: Duration) -> Duration {
    let part = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
    delay.mul_f64(1.0 - part / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_doubles_up_to_its_maximum_and_is_shortened_by_at_most_a_half() {
        let maximum = Duration::from_secs(10);
        let delays: Vec<u64> = (1..=9).map(|failures| retry_delay(failures, maximum).as_millis() as u64).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(retry_delay(u32::MAX, maximum), maximum);
        for _ in 0..100 {
            let delay = jittered(maximum);
            assert!((maximum / 2..=maximum).contains(&delay), "{delay:?}");
        }
    }
}
