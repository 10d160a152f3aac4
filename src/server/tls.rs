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

use super::client_certificates::ClientCertificates;
use crate::{
    certificate::{self, CertificateError},
    clock::Clock,
    config,
};

pub(super) use acceptor::TlsAcceptor;
use tickets::Tickets;

/// Tickets that a client gets after a handshake. Each is used once, and the resumed session brings another.
const TICKETS_PER_HANDSHAKE: usize = 1;

/// The current certificate of a listener, the keys of its session tickets, and the files that they were read from.
#[derive(Debug)]
pub(super) struct Certificate {
    cert: PathBuf,
    key: PathBuf,
    current: Arc<CurrentCertificate>,
    /// `None` if sessions are not resumed.
    tickets: Option<Tickets>,
    /// What clients must have, if they need certificates.
    pub(super) clients: Option<Arc<ClientCertificates>>,
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
        let tickets = tickets::ticketer(&tls.ticket_keys, clock)?;
        Self::read(tls.cert.as_ref(), tls.key.as_ref(), Some(tickets), None)
    }

    /// Reads the certificate of the internal listener, and the authorities of its clients. It resumes no sessions: a client
    /// would keep its access for the life of its ticket although its certificate is no longer accepted.
    pub(super) fn from_internal_config(tls: &config::InternalTlsConfig) -> Result<Option<Arc<Self>>, CertificateError> {
        Self::read(tls.cert.as_ref(), tls.key.as_ref(), None, ClientCertificates::from_config(tls)?)
    }

    fn read(
        cert: Option<&PathBuf>,
        key: Option<&PathBuf>,
        tickets: Option<Tickets>,
        clients: Option<Arc<ClientCertificates>>,
    ) -> Result<Option<Arc<Self>>, CertificateError> {
        let (Some(cert), Some(key)) = (cert, key) else { return Ok(None) };
        let current = Arc::new(CurrentCertificate(ArcSwap::from_pointee(certificate::read_pair(cert, key)?)));
        let (cert, key) = (cert.clone(), key.clone());
        Ok(Some(Arc::new(Self { cert, key, current, tickets, clients })))
    }

    /// Reads the files again. Keeps the old certificate and the old ticket keys if one of the files cannot be used. Sessions
    /// that were begun with the old certificate can be resumed.
    pub(super) fn reload(&self) -> Result<(), CertificateError> {
        let fresh = certificate::read_pair(&self.cert, &self.key)?;
        let apply_tickets = self.tickets.as_ref().map(Tickets::reload).transpose()?;
        self.clients.iter().try_for_each(|clients| clients.reload())?;
        self.current.0.store(Arc::new(fresh));
        if let Some(apply) = apply_tickets {
            apply();
        }
        Ok(())
    }

    /// Returns a configuration for TLS 1.2 and 1.3 with HTTP/1.1 only, which a WebSocket handshake needs. Without early data
    /// (0-RTT): an attacker who records it can send it again, with the token in it.
    pub(super) fn server_config(&self) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(Arc::new(record_keys::provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("aws-lc supports TLS 1.2 and 1.3");
        let builder = match &self.clients {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(clients.clone()),
        };
        let mut config = builder.with_cert_resolver(self.current.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        match &self.tickets {
            Some(tickets) => {
                config.ticketer = tickets.producer();
                config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
            }
            None => config.send_tls13_tickets = 0,
        }
        config.max_early_data_size = 0;
        // Clients resume by tickets, which need no memory here.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_listeners_have_small_keys_and_only_the_public_one_resumes_sessions() {
        let directory = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (cert, key) = (Some(directory.path().join("cert.pem")), Some(directory.path().join("key.pem")));
        std::fs::write(cert.as_ref().unwrap(), made.cert.pem()).unwrap();
        std::fs::write(key.as_ref().unwrap(), made.signing_key.serialize_pem()).unwrap();
        let public = config::TlsConfig { cert: cert.clone(), key: key.clone(), ticket_keys: Vec::new() };
        let internal = config::InternalTlsConfig { cert, key, client_ca: None, client_names: Vec::new() };
        let public = Certificate::from_config(&public, &Clock::default()).unwrap().unwrap().server_config();
        let internal = Certificate::from_internal_config(&internal).unwrap().unwrap().server_config();
        for (config, resumes) in [(public, true), (internal, false)] {
            assert!(record_keys::are_small(config.crypto_provider()));
            assert_eq!((config.ticketer.enabled(), config.send_tls13_tickets > 0), (resumes, resumes));
            assert!(!config.session_storage.can_cache());
        }
    }
}
