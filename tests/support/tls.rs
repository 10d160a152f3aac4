//! Certificates for localhost, and authorities that issue them, made for one test.

use std::{path::PathBuf, sync::Arc};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::TlsAcceptor;
use wardcast::config::Config;

pub struct Certificate {
    directory: tempfile::TempDir,
    der: CertificateDer<'static>,
}

impl Certificate {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let der = write_certificate(&directory);
        Self { directory, der }
    }

    /// Writes another certificate into the same files.
    pub fn renew(&mut self) {
        self.der = write_certificate(&self.directory);
    }

    /// The certificate that a client has to trust.
    pub fn root(&self) -> CertificateDer<'static> {
        self.der.clone()
    }

    pub fn cert_path(&self) -> PathBuf {
        self.directory.path().join("cert.pem")
    }

    pub fn key_path(&self) -> PathBuf {
        self.directory.path().join("key.pem")
    }

    /// Makes a hub serve TLS with this certificate.
    pub fn configure(&self, config: &mut Config) {
        config.server.tls.cert = Some(self.cert_path());
        config.server.tls.key = Some(self.key_path());
    }
}

fn write_certificate(directory: &tempfile::TempDir) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(directory.path().join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(directory.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    made.cert.der().clone()
}

/// A certificate authority.
pub struct Authority {
    directory: tempfile::TempDir,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

/// The files of a certificate.
pub struct PairFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl PairFiles {
    /// Accepts TLS with the certificate.
    pub fn acceptor(&self) -> TlsAcceptor {
        let certificate = CertificateDer::from_pem_file(&self.cert).unwrap();
        let key = PrivateKeyDer::from_pem_file(&self.key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        TlsAcceptor::from(Arc::new(builder.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap()))
    }
}

impl Authority {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut params = rcgen::CertificateParams::default();
        // Another name than that of the certificates, which would otherwise look self-signed.
        params.distinguished_name.push(rcgen::DnType::CommonName, "the authority of the tests");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(directory.path().join("root.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { directory, issuer: rcgen::Issuer::new(params, key) }
    }

    /// The file of the authority's own certificate.
    pub fn root_path(&self) -> PathBuf {
        self.directory.path().join("root.pem")
    }

    /// Issues a certificate for localhost into files with this name.
    pub fn issue(&self, name: &str) -> PairFiles {
        self.issue_for(name, &["localhost"])
    }

    /// Issues a certificate for these host names and addresses into files with this name.
    pub fn issue_for(&self, name: &str, hosts: &[&str]) -> PairFiles {
        self.issue_until(name, hosts, 4096)
    }

    /// Issues a certificate as [`Self::issue_for`] does, which expires when this year begins.
    pub fn issue_until(&self, name: &str, hosts: &[&str], year: i32) -> PairFiles {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params =
            rcgen::CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>()).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |kind: &str| self.directory.path().join(format!("{name}-{kind}.pem"));
        let files = PairFiles { cert: path("cert"), key: path("key") };
        std::fs::write(&files.cert, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}
