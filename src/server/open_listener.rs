//! A listener that serves connections until it is closed: the public one, or the internal one.

use std::{
    io, iter,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_server::ServerBuilder;
use actix_service::Service;

use super::{
    Components, listener,
    listening_socket::{BACKLOG, KernelListener, ListenAddress, ListeningSocket},
    tls,
};

/// How long a close accepts the connections that the kernel queues, before it closes the listening socket. Within this
/// time actix-server's acceptor stops accepting; it gives no sign when.
const QUEUE_SWEEP: Duration = Duration::from_millis(50);

/// A listener with workers of its own, so that connections of clients that use up the one do not hold up the other. It has one
/// socket or several.
pub(super) struct OpenListener {
    handle: actix_server::ServerHandle,
    sockets: Vec<ListeningSocket>,
    components: Components,
    pub(super) certificate: Option<Arc<tls::Certificate>>,
}

impl OpenListener {
    /// Starts to serve what `components` say, with TLS if there is a certificate.
    pub(super) fn start(
        sockets: Vec<ListeningSocket>,
        components: Components,
        certificate: Option<Arc<tls::Certificate>>,
    ) -> io::Result<Self> {
        let clients = certificate.as_ref().and_then(|certificate| certificate.clients.clone());
        let components = Components { client_certificates: clients, ..components };
        let config = components.http.config.snapshot();
        let workers = match config.server.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        let mut builder = actix_server::Server::build()
            .workers(workers)
            .disable_signals()
            // Counts HTTP connections only. WebSockets have their own limit, which a handshake can answer with 503.
            .max_concurrent_connections(config.limits.http_connections.div_ceil(workers));
        for socket in &sockets {
            let (components, tls) = (components.clone(), certificate.as_ref().map(|own| own.server_config()));
            builder = serve(builder, socket.for_acceptor()?, components, tls)?;
        }
        let server = builder.run();
        let handle = server.handle();
        actix_rt::spawn(server);
        Ok(Self { handle, sockets, components, certificate })
    }

    /// Returns what it listens on.
    pub(super) fn addresses(&self) -> Vec<ListenAddress> {
        self.sockets.iter().map(|socket| socket.address.clone()).collect()
    }

    /// Stops accepting if a service manager has passed sockets: what connects from now on waits in their queues for the next
    /// process. Returns whether it has.
    pub(super) async fn leave_passed_sockets(&self) -> bool {
        let has_passed = self.sockets.iter().any(ListeningSocket::is_passed);
        if has_passed {
            self.handle.pause().await;
        }
        has_passed
    }

    /// Closes the listening sockets, so that the kernel refuses new connections. Serves the connections that wait in their
    /// queues, which the kernel would reset, and returns their number. Those of passed sockets are for the next process.
    pub(super) async fn close(&self) -> usize {
        self.handle.pause().await;
        let tls = self.certificate.as_ref().map(|certificate| certificate.server_config());
        let service = listener::queued_service(&self.components, tls).await.map(Rc::new);
        let mut count = 0;
        let own = || self.sockets.iter().filter(|socket| !socket.is_passed());
        let mut serve_queued = || {
            let Ok(service) = &service else { return };
            let queued = own().flat_map(|socket| iter::from_fn(|| socket.accept_queued()).take(BACKLOG as usize));
            for stream in queued {
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
        own().for_each(ListeningSocket::close);
        count
    }

    /// Ends the workers, and with them all connections.
    pub(super) async fn stop(self) {
        self.handle.stop(false).await;
    }
}

/// Lets a server accept connections of this socket. A kind of listener and a kind of socket have a service each.
fn serve(
    builder: ServerBuilder,
    socket: KernelListener,
    components: Components,
    tls: Option<rustls::ServerConfig>,
) -> io::Result<ServerBuilder> {
    use listener::{plain_http_service, plain_service, tls_http_service, tls_service};
    match (components.role.serves_clients(), tls, socket) {
        (true, None, KernelListener::Tcp(socket)) => builder.listen("ws", socket, move || plain_service(&components)),
        (true, None, KernelListener::Unix(socket)) => {
            builder.listen_uds("ws", socket, move || plain_service(&components))
        }
        (true, Some(tls), KernelListener::Tcp(socket)) => {
            builder.listen("wss", socket, move || tls_service(&components, tls.clone()))
        }
        (true, Some(tls), KernelListener::Unix(socket)) => {
            builder.listen_uds("wss", socket, move || tls_service(&components, tls.clone()))
        }
        (false, None, KernelListener::Tcp(socket)) => {
            builder.listen("http", socket, move || plain_http_service(&components))
        }
        (false, None, KernelListener::Unix(socket)) => {
            builder.listen_uds("http", socket, move || plain_http_service(&components))
        }
        (false, Some(tls), KernelListener::Tcp(socket)) => {
            builder.listen("https", socket, move || tls_http_service(&components, tls.clone()))
        }
        (false, Some(tls), KernelListener::Unix(socket)) => {
            builder.listen_uds("https", socket, move || tls_http_service(&components, tls.clone()))
        }
    }
}
