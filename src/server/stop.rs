//! The stop of a server, in the order that loses nothing: load balancers learn of it, the listener closes, the sessions
//! are closed in waves, and the requests that have begun are answered.

use std::{
    iter,
    net::{Shutdown, TcpListener},
    rc::Rc,
    time::{Duration, Instant},
};

use actix_service::Service;
use socket2::SockRef;
use tokio::net::TcpStream;

use super::{RunningServer, listener};
use crate::{
    audit::{AuditEvent, AuditFields},
    http::{HttpContext, StopPhase},
    hub::CloseAllSessions,
};

/// Interval at which the stop checks its progress.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// How long the stop accepts the connections that the kernel queues, before it closes the listening socket. Within this
/// time actix-server's acceptor stops accepting; it gives no sign when.
const QUEUE_SWEEP: Duration = Duration::from_millis(50);
/// Minimum time from the close of the listener until HTTP connections on which no request has begun are closed: a
/// client whose connection was accepted just before is still sending its first one.
const FIRST_REQUEST_TIME: Duration = Duration::from_millis(250);
/// How long a stopping server tries to tell the other nodes that it stops. Otherwise they notice it by its missing heartbeats.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a stop waits for the audit log to be written.
const AUDIT_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

impl RunningServer {
    /// Stops the server within `server.drain`. For `server.drain_delay` it is not ready and serves everything; then it
    /// closes the listener, closes the sessions with 3001, spread over half of the remaining time, and waits for the
    /// answers to requests that have begun. Connections that are still open when `server.drain` ends are aborted.
    pub async fn stop(self) {
        let HttpContext { config, stop, hubs, broker, audit, .. } = self.http();
        let (drain, drain_delay) = (config.server.drain, config.server.drain_delay);
        let deadline = Instant::now() + drain;
        stop.enter(StopPhase::Draining);
        actix_rt::time::sleep(drain_delay).await;
        stop.enter(StopPhase::Closing);
        let queued = self.close_listener().await;
        let closed_at = Instant::now();
        log::info!("listener closed connections={} queued={queued}", self.connections());
        hubs.shut_down(CloseAllSessions { spread_over: drain.saturating_sub(drain_delay) / 2 });
        self.await_sessions(deadline).await;
        let first_requests = (closed_at + FIRST_REQUEST_TIME).min(deadline);
        actix_rt::time::sleep(first_requests.saturating_duration_since(Instant::now())).await;
        stop.enter(StopPhase::Finishing);
        stop.await_http_connections(deadline.saturating_duration_since(Instant::now())).await;
        // A handshake that had begun may have become a session.
        self.await_sessions(deadline).await;
        // Last, because the node answers surveys for its sessions until then.
        if !matches!(actix_rt::time::timeout(GOODBYE_TIMEOUT, broker.announce_stop()).await, Ok(Ok(()))) {
            log::warn!("could not tell the other nodes that this one stops");
        }
        self.handle.stop(false).await;
        audit.record(AuditEvent::Stopped, AuditFields::default());
        audit.flush(AUDIT_FLUSH_TIMEOUT).await;
    }

    async fn await_sessions(&self, deadline: Instant) {
        while self.connections() > 0 && Instant::now() < deadline {
            actix_rt::time::sleep(CHECK_INTERVAL).await;
        }
    }

    /// Closes the listening socket, so that the kernel refuses new connections. Serves the connections that wait in its
    /// queue, which the kernel would reset, and returns their number.
    async fn close_listener(&self) -> usize {
        self.handle.pause().await;
        let tls = self.certificate.as_ref().map(|certificate| certificate.server_config());
        let service = listener::queued_service(&self.components, tls).await.map(Rc::new);
        let mut count = 0;
        let mut serve_queued = || {
            let Ok(service) = &service else { return };
            for stream in iter::from_fn(|| accept_queued(&self.listener)).take(listener::BACKLOG as usize) {
                let (service, open) = (service.clone(), self.http().stop.watch());
                actix_rt::spawn(async move {
                    let _ = service.call(stream).await;
                    drop(open);
                });
                count += 1;
            }
        };
        let sweep_ends = Instant::now() + QUEUE_SWEEP;
        while Instant::now() < sweep_ends {
            serve_queued();
            actix_rt::time::sleep(QUEUE_SWEEP / 10).await;
        }
        serve_queued();
        // Fails only if the socket is not listening. Closing it is not enough: the acceptor has it, too.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Read);
        count
    }
}

/// Accepts a connection that waits in the kernel's queue.
fn accept_queued(listener: &TcpListener) -> Option<TcpStream> {
    let (stream, _) = listener.accept().ok()?;
    stream.set_nonblocking(true).ok()?;
    TcpStream::from_std(stream).ok()
}
