//! The certificates that clients of the internal listener must have (`server.internal_tls.client_ca`). The file of their
//! authorities can be replaced while the server runs.

use std::{
    cell::Cell,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::{danger::HandshakeSignatureValid, verify_server_name},
    crypto,
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::{
    certificate::{self, CertificateError},
    clock::{Clock, MonotonicTime},
    config::InternalTlsConfig,
};

/// Verifies client certificates: issued by an authority of the file, and for one of the names, if there are any.
#[derive(Debug)]
pub(super) struct ClientCertificates {
    ca: PathBuf,
    names: Vec<ServerName<'static>>,
    accepts_any_name: bool,
    current: ArcSwap<CurrentVerifier>,
    /// Counts the reloads.
    generation: AtomicU64,
}

#[derive(Debug)]
struct CurrentVerifier(Arc<dyn ClientCertVerifier>);

impl ClientCertificates {
    /// Reads the authorities; `None` if clients need no certificate.
    pub(super) fn from_config(tls: &InternalTlsConfig) -> Result<Option<Arc<Self>>, CertificateError> {
        let Some(ca) = tls.client_ca.clone() else { return Ok(None) };
        let current = ArcSwap::from_pointee(read_verifier(&ca)?);
        let names = tls.client_names.iter().filter_map(|name| ServerName::try_from(name.clone()).ok()).collect();
        // Not of the names that can be read: without any of them no client is let in.
        let accepts_any_name = tls.client_names.is_empty();
        Ok(Some(Arc::new(Self { ca, names, accepts_any_name, current, generation: AtomicU64::new(0) })))
    }

    /// Reads the file again. Keeps the old authorities if it cannot be used.
    pub(super) fn reload(&self) -> Result<(), CertificateError> {
        self.current.store(Arc::new(read_verifier(&self.ca)?));
        self.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    fn has_listed_name(&self, certificate: &CertificateDer<'_>) -> Result<bool, Error> {
        let certificate = ParsedCertificate::try_from(certificate)?;
        Ok(self.accepts_any_name || self.names.iter().any(|name| verify_server_name(&certificate, name).is_ok()))
    }
}

/// How long a certificate that was verified is believed without another look: verifying costs a signature.
const VERIFIED_FOR: Duration = Duration::from_secs(1);

/// What the client of an open connection has shown in its handshake. A connection must not outlive its certificate: that may expire,
/// and its authority may leave the file.
pub(super) struct ShownCertificates {
    clients: Arc<ClientCertificates>,
    chain: Vec<CertificateDer<'static>>,
    /// When the chain was verified for the last time, and after how many reloads.
    verified: Cell<(MonotonicTime, u64)>,
    clock: Clock,
}

impl ShownCertificates {
    pub(super) fn new(clients: Arc<ClientCertificates>, chain: Vec<CertificateDer<'static>>, clock: Clock) -> Self {
        let verified = Cell::new((clock.monotonic_now(), clients.generation.load(Ordering::Acquire)));
        Self { clients, chain, verified, clock }
    }

    /// Returns whether a handshake with the same certificates would be accepted now, or would have been within the last second.
    pub(super) fn are_accepted(&self) -> bool {
        let (now, generation) = (self.clock.monotonic_now(), self.clients.generation.load(Ordering::Acquire));
        let (verified_at, verified_generation) = self.verified.get();
        if generation == verified_generation && now.saturating_duration_since(verified_at) < VERIFIED_FOR {
            return true;
        }
        let Some((end_entity, intermediates)) = self.chain.split_first() else { return false };
        let seconds = u64::try_from(self.clock.now().unix_seconds()).unwrap_or_default();
        let date = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let is_accepted = self.clients.verify_client_cert(end_entity, intermediates, date).is_ok();
        if is_accepted {
            self.verified.set((now, generation));
        }
        is_accepted
    }
}

/// Returns the name of a verified certificate for the audit log: its first DNS name, or else its SHA-256, as
/// `openssl x509 -fingerprint -sha256` has it in capitals and with colons.
pub(super) fn name_of(certificate: &CertificateDer<'_>) -> Arc<str> {
    let parsed = webpki::EndEntityCert::try_from(certificate);
    if let Some(name) = parsed.as_ref().ok().and_then(|parsed| parsed.valid_dns_names().next()) {
        return name.into();
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}").into()
}

fn read_verifier(ca: &Path) -> Result<CurrentVerifier, CertificateError> {
    let mut roots = RootCertStore::empty();
    for root in certificate::read_roots(ca)? {
        roots.add(root)?;
    }
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    // Fails only without roots, and there is at least one.
    verifier.map(CurrentVerifier).map_err(|error| Error::General(error.to_string()).into())
}

impl ClientCertVerifier for ClientCertificates {
    /// None: a client sends the certificate that it has. The names would have to live as long as the connection.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.current.load().0.verify_client_cert(end_entity, intermediates, now)?;
        if self.has_listed_name(end_entity)? {
            return Ok(verified);
        }
        Err(rustls::CertificateError::NotValidForName.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.current.load().0.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.current.load().0.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.current.load().0.supported_verify_schemes()
    }
}
