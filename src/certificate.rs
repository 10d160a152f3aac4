//! Reads PEM files of certificates and keys, and checks them at once, so that a fault is found at start.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    sign::CertifiedKey,
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, ServerName, UnixTime,
    pem::{self, PemObject},
};
use tokio_rustls::TlsConnector;

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
    /// A file does not hold a key of session tickets.
    #[error("{}: {problem}", path.display())]
    TicketKey {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The certificate and the key do not match, or the type of the key is not supported.
    #[error("{0}")]
    Pair(#[from] rustls::Error),
    /// The system has no certificate authorities.
    #[error(
        "the system has no certificate authorities; install the package ca-certificates, or name the PEM file of your own"
    )]
    NoSystemRoots,
    /// The operating system failed to provide memory or random bytes.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl CertificateError {
    fn file(path: &Path, problem: impl ToString) -> Self {
        Self::File { path: path.to_owned(), problem: problem.to_string() }
    }
}

/// Reads a certificate with its chain, and its private key.
pub(crate) fn read_pair(cert: &Path, key: &Path) -> Result<CertifiedKey, CertificateError> {
    let chain = read_chain(cert)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            CertificateError::file(key, "the file contains no private key, or only an encrypted one")
        }
        error => CertificateError::file(key, error),
    })?;
    let certified = CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider())?;
    certified.keys_match()?;
    Ok(certified)
}

/// Reads the certificates of authorities.
pub(crate) fn read_roots(file: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let roots = read_chain(file)?;
    for root in &roots {
        RootCertStore::empty().add(root.clone()).map_err(|error| CertificateError::file(file, error))?;
    }
    Ok(roots)
}

/// Returns the certificate authorities of the system. One that cannot be read is left out.
pub(crate) fn system_roots() -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let mut roots = rustls_native_certs::load_native_certs().certs;
    roots.retain(|root| RootCertStore::empty().add(root.clone()).is_ok());
    if roots.is_empty() { Err(CertificateError::NoSystemRoots) } else { Ok(roots) }
}

/// Returns an HTTP/1.1 client's TLS that trusts the certificate authorities of a file, or else those of the system.
pub(crate) fn tls_connector(authorities: Option<&Path>) -> Result<TlsConnector, CertificateError> {
    let certificates = authorities.map_or_else(system_roots, read_roots)?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates);
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("aws-lc supports TLS 1.2 and 1.3");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Reads a certificate with its chain. There is at least one.
pub(crate) fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| CertificateError::file(file, error))?;
    if certificates.is_empty() {
        return Err(CertificateError::file(file, "the file contains no certificate"));
    }
    Ok(certificates)
}

/// Accepts one certificate of a server, or any, without regard to names and signers. The signatures of the handshake are still
/// checked, so the server has the certificate's key.
#[derive(Debug)]
pub struct KnownCertificate {
    /// Checks the signatures.
    pub provider: Arc<CryptoProvider>,
    /// `None` to accept any.
    pub expected: Option<CertificateDer<'static>>,
}

impl ServerCertVerifier for KnownCertificate {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.expected {
            Some(expected) if expected != certificate => Err(rustls::Error::General(
                "the server has another certificate than the configuration names".to_owned(),
            )),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
