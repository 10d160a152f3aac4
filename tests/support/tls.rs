//! Certificates for localhost, made for one test.

use std::path::PathBuf;

use rustls_pki_types::CertificateDer;
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
