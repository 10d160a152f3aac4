//! Certificates: read from PEM files, checked, and exchanged under a running server.

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
    /// A file that is not there or not PEM.
    #[error("{}: {problem}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The two do not belong together, or the key is of a kind that is not spoken.
    #[error("{0}")]
    Pair(#[from] rustls::Error),
    /// No room or no randomness.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The certificate of the moment and where it comes from.
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
    /// The configured certificate, if there is one.
    pub(super) fn from_config(tls: &config::TlsConfig) -> Result<Option<Arc<Self>>, CertificateError> {
        let (Some(cert), Some(key)) = (tls.cert.clone(), tls.key.clone()) else { return Ok(None) };
        let current = Arc::new(CurrentCertificate(ArcSwap::from_pointee(read(&cert, &key)?)));
        Ok(Some(Arc::new(Self { cert, key, current })))
    }

    /// Reads the files again. What is no good changes nothing.
    pub(super) fn reload(&self) -> Result<(), CertificateError> {
        let fresh = read(&self.cert, &self.key)?;
        self.current.0.store(Arc::new(fresh));
        Ok(())
    }

    /// TLS 1.2 and 1.3, HTTP/1.1 only: a WebSocket begins there.
    pub(super) fn server_config(&self) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("aws-lc speaks TLS 1.2 and 1.3");
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
        return Err(bad(cert, &"has no certificate"));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, &error))?;
    let certified = CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider())?;
    certified.keys_match()?;
    Ok(certified)
}
