//! Stops a server in an order in which nothing is lost: load balancers learn of it, the listener closes, the sessions are
//! closed in waves, and the requests that have begun are answered.

use std::time::{Duration, Instant};

use super::RunningServer;
use crate::{
    audit::{AuditEvent, AuditFields},
    http::{HttpContext, StopPhase},
    hub::CloseAllSessions,
};

/// Interval at which the stop checks its progress.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// Minimum time from the close of the listener until HTTP connections on which no request has begun are closed: a
/// client whose connection was accepted just before is still sending its first one.
const FIRST_REQUEST_TIME: Duration = Duration::from_millis(250);
/// How long a stopping server tries at least to tell the other nodes that it stops, even if `server.drain` has ended: on a busy
/// machine a second may not be enough, and the others notice it only by its missing heartbeats then.
const MIN_GOODBYE_TIME: Duration = Duration::from_millis(500);
/// How long a stop waits until the outbox of events is sent. What is left there is sent by another node, if there is one.
const EVENTS_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a stop waits for the audit log to be written.
const AUDIT_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

impl RunningServer {
    /// Stops the server within `server.drain`. For `server.drain_delay` it is not ready and serves everything; then it
    /// closes the listener, closes the sessions with 3001, spread over half of the remaining time, and waits for the
    /// answers to requests that have begun. The internal listener serves until the sessions are closed. Connections that are still open when `server.drain` ends are aborted.
    pub async fn stop(self) {
        let HttpContext { config, stop, hubs, broker, audit, .. } = self.http();
        let config = config.snapshot();
        let (drain, drain_delay) = (config.server.drain, config.server.drain_delay);
        let deadline = Instant::now() + drain;
        stop.enter(StopPhase::Draining);
        actix_rt::time::sleep(drain_delay).await;
        if self.public.leave_passed_sockets().await {
            // So that no handshake of a connection that was accepted just before is refused.
            actix_rt::time::sleep(FIRST_REQUEST_TIME).await;
        }
        stop.enter(StopPhase::Closing);
        let queued = self.public.close().await;
        let closed_at = Instant::now();
        log::info!("listener closed connections={} queued={queued}", self.connections());
        hubs.shut_down(CloseAllSessions { spread_over: drain.saturating_sub(drain_delay) / 2 });
        self.await_sessions(deadline).await;
        let first_requests = (closed_at + FIRST_REQUEST_TIME).min(deadline);
        actix_rt::time::sleep(first_requests.saturating_duration_since(Instant::now())).await;
        if let Some(internal) = &self.internal {
            internal.close().await;
        }
        stop.enter(StopPhase::Finishing);
        stop.await_http_connections(deadline.saturating_duration_since(Instant::now())).await;
        // A handshake that had begun may have become a session.
        self.await_sessions(deadline).await;
        if let Some(events) = &self.events {
            events.stop(EVENTS_TIMEOUT).await;
        }
        // Last, because the node answers surveys for its sessions until then.
        let goodbye_time = deadline.saturating_duration_since(Instant::now()).max(MIN_GOODBYE_TIME);
        let error = match actix_rt::time::timeout(goodbye_time, broker.announce_stop()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {goodbye_time:?}")),
        };
        if let Some(error) = error {
            log::warn!("could not tell the other nodes that this one stops error={error:?}");
        }
        let audit = audit.clone();
        self.public.stop().await;
        if let Some(internal) = self.internal {
            internal.stop().await;
        }
        audit.record(AuditEvent::Stopped, AuditFields::default());
        audit.flush(AUDIT_FLUSH_TIMEOUT).await;
    }

    async fn await_sessions(&self, deadline: Instant) {
        while self.connections() > 0 && Instant::now() < deadline {
            actix_rt::time::sleep(CHECK_INTERVAL).await;
        }
    }
}
