//! Certificates: read from PEM files, checked, and replaced in a running server.

use std::{io, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::config;

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read or is not PEM.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error.
        problem: String,
    },
    /// The certificate and the key do not match, or the type of the key is not supported.
    #[error("{0}")]
    Pair(#[from] rustls::Error),
    /// The operating system failed to provide memory or random bytes.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The current certificate and the files that it was read from.
#[derive(Debug)]
pub(super) struct Certificate {
    cert: PathBuf,
    key: PathBuf,
    current: Arc<CurrentCertificate>,
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
        let (Some(cert), Some(key)) = (tls.cert.clone(), tls.key.clone()) else { return Ok(None) };
        let current = Arc::new(CurrentCertificate(ArcSwap::from_pointee(read(&cert, &key)?)));
        Ok(Some(Arc::new(Self { cert, key, current })))
    }

    /// Reads the files again. Keeps the old certificate if they cannot be used.
    pub(super) fn reload(&self) -> Result<(), CertificateError> {
        let fresh = read(&self.cert, &self.key)?;
        self.current.0.store(Arc::new(fresh));
        Ok(())
    }

    /// Returns a configuration for TLS 1.2 and 1.3 with HTTP/1.1 only, which a WebSocket handshake needs.
    pub(super) fn server_config(&self) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("aws-lc supports TLS 1.2 and 1.3");
        let mut config = builder.with_no_client_auth().with_cert_resolver(self.current.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }
}

fn read(cert: &PathBuf, key: &PathBuf) -> Result<CertifiedKey, CertificateError> {
    let bad = |path: &PathBuf, problem: &dyn ToString| CertificateError::File {
        path: path.clone(),
        problem: problem.to_string(),
    };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).map_err(|error| bad(cert, &error))?;
    if chain.is_empty() {
        return Err(bad(cert, &"the file contains no certificate"));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, &error))?;
    let certified = CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider())?;
    certified.keys_match()?;
    Ok(certified)
}
