//! The certificates that a run with TLS accepts, and TLS of the server of `limit`.

use std::{path::Path, sync::Arc};

use parking_lot::Mutex;
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, NamedGroup, RootCertStore, ServerConfig};
use wardcast::certificate::KnownCertificate;

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
            let verifier = Arc::new(KnownCertificate { provider, expected });
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
