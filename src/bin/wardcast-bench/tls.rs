//! The certificates that a run with TLS accepts, and TLS of the server of `limit`.

use std::{path::Path, sync::Arc};

use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, NamedGroup, RootCertStore, ServerConfig,
    SignatureScheme,
};

use crate::certificate::RunCertificate;
use crate::error::{Context, Result, fail};

/// The certificates that a run accepts.
pub(crate) enum Trust<'a> {
    /// Those that are in a PEM file, or that one of them signed.
    SignedBy(&'a Path),
    /// This one, whatever its names: that of a server which this program has started.
    Only(CertificateDer<'static>),
    /// Any, for test servers that sign their own.
    Any,
}

/// The TLS configuration that all connections of a run share. Unless `resumes`, no session is resumed, so that every handshake
/// costs its full price.
pub(crate) fn client_config(trust: Trust<'_>, resumes: bool) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().context("TLS")?;
    let expected = match trust {
        Trust::SignedBy(file) => Err(read_roots(file)?),
        Trust::Only(certificate) => Ok(Some(certificate)),
        Trust::Any => Ok(None),
    };
    let mut config = match expected {
        Err(roots) => builder.with_root_certificates(roots).with_no_client_auth(),
        Ok(expected) => {
            let verifier = Arc::new(KnownServerVerifier { expected, provider });
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = if resumes { Resumption::store(Arc::new(Tickets::default())) } else { Resumption::disabled() };
    Ok(Arc::new(config))
}

/// The TLS 1.3 tickets of a run's connections. All servers of a run are one hub, or share the keys of their tickets. The store of
/// the library keeps eight.
#[derive(Debug, Default)]
struct Tickets(Mutex<Vec<Tls13ClientSessionValue>>);

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.0.lock().push(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.lock().pop()
    }
}

/// The TLS configuration of the server of `limit`, with a certificate that is made for it.
pub(crate) fn server_config() -> Result<Arc<ServerConfig>> {
    let RunCertificate { certificate, key } = RunCertificate::generate()?;
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().context("TLS")?.with_no_client_auth();
    let mut config = builder.with_single_cert(vec![certificate], key).context("TLS")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn read_roots(file: &Path) -> Result<RootCertStore> {
    let what = format!("--ca {}", file.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).context(&what)? {
        roots.add(certificate.context(&what)?).context(&what)?;
    }
    if roots.is_empty() { fail(format!("{what}: the file has no certificate")) } else { Ok(roots) }
}

/// The first certificate in a PEM file: the one of a server that is started with this file.
pub(crate) fn read_certificate(file: &Path) -> Result<CertificateDer<'static>> {
    CertificateDer::from_pem_file(file).context(file.display())
}

/// Accepts one certificate, or any, without regard to names and signers. The signatures of the handshake are still checked,
/// so the server has the certificate's key.
#[derive(Debug)]
struct KnownServerVerifier {
    /// `None` to accept any.
    expected: Option<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for KnownServerVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, Error> {
        match self.expected.as_ref().is_none_or(|expected| expected == certificate) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_known_certificate_is_accepted() {
        let [known, other] = [(); 2].map(|()| RunCertificate::generate().unwrap().certificate);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = |expected| KnownServerVerifier { expected, provider: provider.clone() };
        let name = ServerName::try_from("192.0.2.1").unwrap();
        let accepts = |verifier: KnownServerVerifier, certificate| {
            verifier.verify_server_cert(certificate, &[], &name, &[], UnixTime::now()).is_ok()
        };
        assert!(accepts(verifier(Some(known.clone())), &known) && !accepts(verifier(Some(known.clone())), &other));
        assert!(accepts(verifier(None), &other));
    }
}
