//! The stop of a server, in the order that loses nothing: load balancers learn of it, the listener closes, the sessions
//! are closed in waves, and the requests that have begun are answered.

use std::{
    iter,
    net::{Shutdown, TcpListener},
    rc::Rc,
    time::{Duration, Instant},
};

use actix_rt::task::JoinHandle;
use actix_service::Service;
use futures_util::future::join_all;
use socket2::SockRef;
use tokio::{net::TcpStream, time::timeout};

use super::{RunningServer, listener};
use crate::{http::StopPhase, hub::CloseAllSessions};

/// Interval at which the stop checks its progress.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// How long the connections that the kernel has queued are looked for before the listening socket closes. Within it
/// actix-server's acceptor, which gives no sign of it, stops to accept.
const QUEUE_SWEEP: Duration = Duration::from_millis(50);
/// Maximum time to refuse a queued connection, from its PROXY header to the end of its response.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Minimum time from the close of the listener until HTTP connections on which no request has begun are closed: a
/// client whose connection was accepted just before is still sending its first one.
const FIRST_REQUEST_TIME: Duration = Duration::from_millis(250);

impl RunningServer {
    /// Stops the server within `server.drain`. For `server.drain_delay` it is not ready and serves everything; then it
    /// closes the listener, closes the sessions with 3001, spread over half of the remaining time, and waits for the
    /// answers to requests that have begun. Connections that are still open when `server.drain` ends are aborted.
    pub async fn stop(self) {
        let server = &self.http.config.server;
        let deadline = Instant::now() + server.drain;
        self.http.stop.enter(StopPhase::Draining);
        actix_rt::time::sleep(server.drain_delay).await;
        self.http.stop.enter(StopPhase::Closing);
        let refusals = self.close_listener().await;
        let closed_at = Instant::now();
        log::info!("listener closed connections={} refused={}", self.connections(), refusals.len());
        self.http.hubs.shut_down(CloseAllSessions { spread_over: server.drain.saturating_sub(server.drain_delay) / 2 });
        self.await_sessions(deadline).await;
        join_all(refusals).await;
        let first_requests = (closed_at + FIRST_REQUEST_TIME).min(deadline);
        actix_rt::time::sleep(first_requests.saturating_duration_since(Instant::now())).await;
        self.http.stop.enter(StopPhase::Finishing);
        self.http.stop.await_http_connections(deadline.saturating_duration_since(Instant::now())).await;
        // A handshake that had begun may have become a session.
        self.await_sessions(deadline).await;
        self.handle.stop(false).await;
    }

    async fn await_sessions(&self, deadline: Instant) {
        while self.connections() > 0 && Instant::now() < deadline {
            actix_rt::time::sleep(CHECK_INTERVAL).await;
        }
    }

    /// Closes the listening socket, so that the kernel refuses new connections. Connections that wait in its queue get
    /// a 503; otherwise the kernel would reset them. Returns the tasks that answer.
    async fn close_listener(&self) -> Vec<JoinHandle<()>> {
        self.handle.pause().await;
        let tls = self.certificate.as_ref().map(|certificate| certificate.server_config());
        let Ok(service) = listener::refusing_service(&self.http, tls).await else { return Vec::new() };
        let (service, mut refusals) = (Rc::new(service), Vec::new());
        let mut refuse_queued = || {
            for stream in iter::from_fn(|| accept_queued(&self.listener)).take(listener::BACKLOG as usize) {
                let service = service.clone();
                refusals.push(actix_rt::spawn(async move {
                    let _ = timeout(REFUSAL_TIMEOUT, service.call(stream)).await;
                }));
            }
        };
        let sweep_ends = Instant::now() + QUEUE_SWEEP;
        while Instant::now() < sweep_ends {
            refuse_queued();
            actix_rt::time::sleep(QUEUE_SWEEP / 10).await;
        }
        refuse_queued();
        // Fails only if the socket is not listening. Closing it is not enough: the acceptor has it, too.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Read);
        refusals
    }
}

/// Accepts a connection that waits in the kernel's queue.
fn accept_queued(listener: &TcpListener) -> Option<TcpStream> {
    let (stream, _) = listener.accept().ok()?;
    stream.set_nonblocking(true).ok()?;
    TcpStream::from_std(stream).ok()
}
