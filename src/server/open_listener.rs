//! A listener that serves connections until it is closed: the public one, or the internal one.

use std::{
    io, iter,
    net::{Shutdown, SocketAddr, TcpListener},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_service::Service;
use socket2::SockRef;
use tokio::net::TcpStream;

use super::{Components, listener, tls};

/// How long a close accepts the connections that the kernel queues, before it closes the listening socket. Within this
/// time actix-server's acceptor stops accepting; it gives no sign when.
const QUEUE_SWEEP: Duration = Duration::from_millis(50);

/// A listener with workers of its own, so that connections of clients that use up the one do not hold up the other.
pub(super) struct OpenListener {
    pub(super) address: SocketAddr,
    handle: actix_server::ServerHandle,
    socket: TcpListener,
    components: Components,
    pub(super) certificate: Option<Arc<tls::Certificate>>,
}

impl OpenListener {
    /// Starts to serve what `components` say, with TLS if there is a certificate.
    pub(super) fn start(
        socket: TcpListener,
        components: Components,
        certificate: Option<Arc<tls::Certificate>>,
    ) -> io::Result<Self> {
        let (address, own_socket) = (socket.local_addr()?, socket.try_clone()?);
        let config = components.http.config.snapshot();
        let workers = match config.server.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        let builder = actix_server::Server::build()
            .workers(workers)
            .disable_signals()
            // Counts HTTP connections only. WebSockets have their own limit, which a handshake can answer with 503.
            .max_concurrent_connections(config.limits.http_connections.div_ceil(workers));
        let (own_components, tls) = (components.clone(), certificate.as_ref().map(|own| own.server_config()));
        let builder = match (components.role.serves_clients(), tls) {
            (true, None) => builder.listen("ws", socket, move || listener::plain_service(&components))?,
            (true, Some(tls)) => {
                builder.listen("wss", socket, move || listener::tls_service(&components, tls.clone()))?
            }
            (false, None) => builder.listen("http", socket, move || listener::plain_http_service(&components))?,
            (false, Some(tls)) => {
                builder.listen("https", socket, move || listener::tls_http_service(&components, tls.clone()))?
            }
        };
        let server = builder.run();
        let handle = server.handle();
        actix_rt::spawn(server);
        Ok(Self { address, handle, socket: own_socket, components: own_components, certificate })
    }

    /// Closes the listening socket, so that the kernel refuses new connections. Serves the connections that wait in its
    /// queue, which the kernel would reset, and returns their number.
    pub(super) async fn close(&self) -> usize {
        self.handle.pause().await;
        let tls = self.certificate.as_ref().map(|certificate| certificate.server_config());
        let service = listener::queued_service(&self.components, tls).await.map(Rc::new);
        let mut count = 0;
        let mut serve_queued = || {
            let Ok(service) = &service else { return };
            for stream in iter::from_fn(|| accept_queued(&self.socket)).take(listener::BACKLOG as usize) {
                let (service, open) = (service.clone(), self.components.http.stop.watch());
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
        let _ = SockRef::from(&self.socket).shutdown(Shutdown::Read);
        count
    }

    /// Ends the workers, and with them all connections.
    pub(super) async fn stop(self) {
        self.handle.stop(false).await;
    }
}

/// Accepts a connection that waits in the kernel's queue.
fn accept_queued(listener: &TcpListener) -> Option<TcpStream> {
    let (stream, _) = listener.accept().ok()?;
    stream.set_nonblocking(true).ok()?;
    TcpStream::from_std(stream).ok()
}
