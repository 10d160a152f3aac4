//! The TLS handshakes of a worker: bounded in number and time.

use std::{
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use actix_service::{Service, ServiceFactory};
use actix_utils::counter::Counter;
use futures_util::future::LocalBoxFuture;
use rustls::ServerConfig;
use tokio::time::timeout;

use crate::{
    address::UNKNOWN_ADDRESS,
    metrics::Metrics,
    transport::{AcceptedConnection, TlsSocket},
};

/// Maximum TLS handshakes in progress per worker. Above it, the worker accepts no connection until one has ended.
const MAX_HANDSHAKES: usize = 4096;
/// Time for a handshake. A silent client holds one of them for so long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// Creates the service of each worker that does the handshakes.
pub(in crate::server) struct TlsAcceptor {
    config: Arc<ServerConfig>,
    metrics: Arc<Metrics>,
}

impl TlsAcceptor {
    pub(in crate::server) fn new(config: ServerConfig, metrics: Arc<Metrics>) -> Self {
        Self { config: Arc::new(config), metrics }
    }
}

impl ServiceFactory<AcceptedConnection> for TlsAcceptor {
    type Response = TlsSocket;
    type Error = ();
    type Config = ();
    type Service = TlsAcceptorService;
    type InitError = ();
    type Future = Ready<Result<Self::Service, ()>>;

    fn new_service(&self, (): ()) -> Self::Future {
        let (config, metrics) = (self.config.clone(), self.metrics.clone());
        ready(Ok(TlsAcceptorService { config, metrics, handshakes: Counter::new(MAX_HANDSHAKES) }))
    }
}

/// Does the handshakes of one worker.
pub(in crate::server) struct TlsAcceptorService {
    config: Arc<ServerConfig>,
    metrics: Arc<Metrics>,
    handshakes: Counter,
}

impl Service<AcceptedConnection> for TlsAcceptorService {
    type Response = TlsSocket;
    type Error = ();
    type Future = LocalBoxFuture<'static, Result<TlsSocket, ()>>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), ()>> {
        if self.handshakes.available(cx) { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn call(&self, connection: AcceptedConnection) -> Self::Future {
        let (config, metrics, handshake) = (self.config.clone(), self.metrics.clone(), self.handshakes.get());
        Box::pin(async move {
            let peer = connection.peer().map_or(UNKNOWN_ADDRESS, |peer| peer.ip());
            let accepted = timeout(HANDSHAKE_TIMEOUT, TlsSocket::accept(connection, config)).await;
            drop(handshake);
            let outcome = match &accepted {
                Ok(Ok(socket)) if socket.is_resumed() => "resumed",
                Ok(Ok(_)) => "full",
                Ok(Err(error)) => {
                    log::debug!("TLS handshake failed peer={peer} error={:?}", error.to_string());
                    "failed"
                }
                Err(_) => "timeout",
            };
            metrics.count_tls_handshake(outcome);
            accepted.map_err(drop)?.map_err(drop)
        })
    }
}
