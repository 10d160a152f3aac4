//! The certificate of the listener and the keys of its session tickets, which can be replaced while the server runs.

mod acceptor;
mod record_keys;
mod tickets;

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::{
    certificate::{self, CertificateError},
    clock::Clock,
    config,
};

pub(super) use acceptor::TlsAcceptor;
use tickets::Tickets;

/// Tickets that a client gets after a handshake. Each is used once, and the resumed session brings another.
const TICKETS_PER_HANDSHAKE: usize = 1;

/// The current certificate, the keys of session tickets, and the files that they were read from. Each listener has its own:
/// a ticket of one must not resume a session on another, which may require a client certificate.
#[derive(Debug)]
pub(super) struct Certificate {
    cert: PathBuf,
    key: PathBuf,
    current: Arc<CurrentCertificate>,
    tickets: Tickets,
}

#[derive(Debug)]
struct CurrentCertificate(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Certificate {
    /// Reads the configured certificate and ticket keys; `None` if no certificate is configured.
    pub(super) fn from_config(tls: &config::TlsConfig, clock: &Clock) -> Result<Option<Arc<Self>>, CertificateError> {
        let (Some(cert), Some(key)) = (tls.cert.clone(), tls.key.clone()) else { return Ok(None) };
        let current = Arc::new(CurrentCertificate(ArcSwap::from_pointee(certificate::read_pair(&cert, &key)?)));
        let tickets = tickets::ticketer(&tls.ticket_keys, clock)?;
        Ok(Some(Arc::new(Self { cert, key, current, tickets })))
    }

    /// Reads the files again. Keeps the old certificate and the old ticket keys if one of the files cannot be used. Sessions
    /// that were begun with the old certificate can be resumed.
    pub(super) fn reload(&self) -> Result<(), CertificateError> {
        let fresh = certificate::read_pair(&self.cert, &self.key)?;
        let apply_tickets = self.tickets.reload()?;
        self.current.0.store(Arc::new(fresh));
        apply_tickets();
        Ok(())
    }

    /// Returns a configuration for TLS 1.2 and 1.3 with HTTP/1.1 only, which a WebSocket handshake needs. Without early data
    /// (0-RTT): whoever records it can send it again, with the token in it.
    pub(super) fn server_config(&self) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(Arc::new(record_keys::provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("aws-lc supports TLS 1.2 and 1.3");
        let mut config = builder.with_no_client_auth().with_cert_resolver(self.current.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ticketer = self.tickets.producer();
        config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
        config.max_early_data_size = 0;
        // Clients resume by tickets, which need no memory here.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config
    }
}
