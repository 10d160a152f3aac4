//! Checks the identity of a server over TLS.

use std::{io, path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;

use crate::certificate;

/// Which certificate of a server is accepted.
#[derive(Clone, Debug)]
pub(in crate::cli) enum ServerIdentity {
    /// Any. Only for requests without a secret, or to a hub of the same user on this machine.
    Any,
    /// That of this file. The certificate of a hub is for its public name, which is not the name by which its own machine reaches it.
    Exactly(PathBuf),
    /// One for the name in the URL, by the certificate authorities of a file or else of the system.
    SignedBy(Option<PathBuf>),
}

impl ServerIdentity {
    /// Returns a TLS client that accepts this identity.
    pub(super) fn connector(&self) -> io::Result<TlsConnector> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = builder.map_err(io::Error::other)?;
        let expected = match self {
            Self::SignedBy(file) => {
                let certificates = file.as_deref().map_or_else(certificate::system_roots, certificate::read_roots);
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(certificates.map_err(io::Error::other)?);
                let config = builder.with_root_certificates(roots).with_no_client_auth();
                return Ok(TlsConnector::from(Arc::new(config)));
            }
            Self::Any => None,
            Self::Exactly(file) => {
                let chain = certificate::read_chain(file).map_err(io::Error::other)?;
                Some(chain.into_iter().next().ok_or_else(|| io::Error::other("the file has no certificate"))?)
            }
        };
        let verifier = Arc::new(KnownCertificate { provider, expected });
        let config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

/// Accepts one certificate, or any, whatever its name.
#[derive(Debug)]
struct KnownCertificate {
    provider: Arc<CryptoProvider>,
    expected: Option<CertificateDer<'static>>,
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
