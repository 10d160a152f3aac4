//! The certificate of the listener, which can be replaced while the server runs.

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::client_certificates::ClientCertificates;
use crate::{
    certificate::{self, CertificateError},
    config,
};

/// The current certificate and the files that it was read from.
#[derive(Debug)]
pub(super) struct Certificate {
    cert: PathBuf,
    key: PathBuf,
    current: Arc<CurrentCertificate>,
    /// What clients must have, if they need certificates.
    clients: Option<Arc<ClientCertificates>>,
}

#[derive(Debug)]
struct CurrentCertificate(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Certificate {
    /// Reads the configured certificate; `None` if none is configured.
    pub(super) fn from_config(tls: &config::TlsConfig) -> Result<Option<Arc<Self>>, CertificateError> {
        Self::read(tls, None)
    }

    /// Reads the certificate of the internal listener, and the authorities of its clients.
    pub(super) fn from_internal_config(tls: &config::InternalTlsConfig) -> Result<Option<Arc<Self>>, CertificateError> {
        let (cert, key) = (tls.cert.clone(), tls.key.clone());
        Self::read(&config::TlsConfig { cert, key }, ClientCertificates::from_config(tls)?)
    }

    fn read(
        tls: &config::TlsConfig,
        clients: Option<Arc<ClientCertificates>>,
    ) -> Result<Option<Arc<Self>>, CertificateError> {
        let (Some(cert), Some(key)) = (tls.cert.clone(), tls.key.clone()) else { return Ok(None) };
        let current = Arc::new(CurrentCertificate(ArcSwap::from_pointee(certificate::read_pair(&cert, &key)?)));
        Ok(Some(Arc::new(Self { cert, key, current, clients })))
    }

    /// Reads the files again. Keeps the old certificate if they cannot be used.
    pub(super) fn reload(&self) -> Result<(), CertificateError> {
        let fresh = certificate::read_pair(&self.cert, &self.key)?;
        self.clients.iter().try_for_each(|clients| clients.reload())?;
        self.current.0.store(Arc::new(fresh));
        Ok(())
    }

    /// Returns a configuration for TLS 1.2 and 1.3 with HTTP/1.1 only, which a WebSocket handshake needs.
    pub(super) fn server_config(&self) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("aws-lc supports TLS 1.2 and 1.3");
        let builder = match &self.clients {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(clients.clone()),
        };
        let mut config = builder.with_cert_resolver(self.current.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }
}
