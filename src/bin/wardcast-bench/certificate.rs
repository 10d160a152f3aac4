//! A certificate for one run, made for the server that the run starts. Only the clients of the run trust it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::{fs, os::unix::fs::OpenOptionsExt};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::error::{Context, Result};

// Tags of DER (X.690 §8).
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0]` of a certificate, its version, and `[3]`, its extensions (RFC 5280 §4.1).
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// `[2]` and `[7]` of a name in the extension `subjectAltName` (RFC 5280 §4.2.1.6).
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

/// 1.2.840.10045.4.3.2, ecdsa-with-SHA256.
const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
/// 2.5.4.3, commonName.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.17, subjectAltName.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// A certificate for this machine, signed by itself, with its private key (P-256).
pub(crate) struct RunCertificate {
    /// The certificate.
    pub(crate) certificate: CertificateDer<'static>,
    /// Its private key.
    pub(crate) key: PrivateKeyDer<'static>,
}

impl RunCertificate {
    /// Makes a certificate for `localhost` and 127.0.0.1 that never expires.
    pub(crate) fn generate() -> Result<Self> {
        const WHAT: &str = "making a certificate";
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).context(WHAT)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref()).context(WHAT)?;
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().context(WHAT)?;
        let content = unsigned_certificate(public.as_ref());
        let signature = pair.sign(&random, &content).context(WHAT)?;
        // The first byte of a bit string says how many bits of the last one are unused.
        let signature = der(BIT_STRING, &[&[0], signature.as_ref()]);
        let certificate = der(SEQUENCE, &[&content, &signature_algorithm(), &signature]).into();
        let key = PrivatePkcs8KeyDer::from(pkcs8.as_ref().to_vec()).into();
        Ok(Self { certificate, key })
    }

    /// Both in one PEM file, as a server reads them.
    fn to_pem(&self) -> String {
        let section = |label: &str, bytes: &[u8]| {
            format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(bytes))
        };
        section("CERTIFICATE", &self.certificate) + &section("PRIVATE KEY", self.key.secret_der())
    }
}

/// The part of a certificate that is signed, version 3 (RFC 5280 §4.1.2).
fn unsigned_certificate(public_key: &[u8]) -> Vec<u8> {
    let version = der(VERSION, &[&der(INTEGER, &[&[2]])]);
    let serial_number = der(INTEGER, &[&[1]]);
    let common_name = [der(OBJECT_IDENTIFIER, &[COMMON_NAME]), der(UTF8_STRING, &[b"wardcast-bench"])].concat();
    let name = der(SEQUENCE, &[&der(SET, &[&der(SEQUENCE, &[&common_name])])]);
    // The latter stands for "no expiry" (RFC 5280 §4.1.2.5).
    let validity = der(SEQUENCE, &[&der(UTC_TIME, &[b"200101000000Z"]), &der(GENERALIZED_TIME, &[b"99991231235959Z"])]);
    let names = der(SEQUENCE, &[&der(DNS_NAME, &[b"localhost"]), &der(IP_ADDRESS, &[&[127, 0, 0, 1]])]);
    let alternatives = der(SEQUENCE, &[&der(OBJECT_IDENTIFIER, &[SUBJECT_ALT_NAME]), &der(OCTET_STRING, &[&names])]);
    let extensions = der(EXTENSIONS, &[&der(SEQUENCE, &[&alternatives])]);
    let parts: [&[u8]; 8] =
        [&version, &serial_number, &signature_algorithm(), &name, &validity, &name, public_key, &extensions];
    der(SEQUENCE, &parts)
}

fn signature_algorithm() -> Vec<u8> {
    der(SEQUENCE, &[&der(OBJECT_IDENTIFIER, &[ECDSA_WITH_SHA256])])
}

/// A value in DER: tag, length and the concatenated `parts`.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len().to_be_bytes();
    let significant = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    let mut value = vec![tag];
    if content.len() >= 0x80 {
        value.push(0x80 | significant.len() as u8);
        value.extend_from_slice(significant);
    } else {
        value.push(content.len() as u8);
    }
    value.extend_from_slice(&content);
    value
}

/// A file in the folder for temporary files, which only this user can read, and which is removed with this value.
pub(crate) struct CertificateFile(PathBuf);

impl CertificateFile {
    /// Writes a certificate and its private key.
    pub(crate) fn write(certificate: &RunCertificate) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("wardcast-bench-{}.pem", uuid::Uuid::new_v4().simple()));
        let what = format!("writing {}", path.display());
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).context(&what)?;
        let file_guard = Self(path);
        file.write_all(certificate.to_pem().as_bytes()).context(&what)?;
        Ok(file_guard)
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for CertificateFile {
    fn drop(&mut self) {
        // The file may have been removed already.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use rustls::client::{WebPkiServerVerifier, danger::ServerCertVerifier};
    use rustls::pki_types::{ServerName, UnixTime, pem::PemObject};
    use rustls::{RootCertStore, crypto::aws_lc_rs, sign::CertifiedKey};

    use super::*;

    #[test]
    fn certificate_is_valid_for_this_machine_and_has_its_key() {
        let RunCertificate { certificate, key } = RunCertificate::generate().unwrap();
        let provider = aws_lc_rs::default_provider();
        let pair = CertifiedKey::from_der(vec![certificate.clone()], key, &provider).unwrap();
        pair.keys_match().unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider)).build().unwrap();
        let verify = |name: &'static str| {
            let name = ServerName::try_from(name).unwrap();
            verifier.verify_server_cert(&certificate, &[], &name, &[], UnixTime::now())
        };
        assert!(verify("localhost").is_ok() && verify("127.0.0.1").is_ok());
        assert!(verify("example.com").is_err());
    }

    #[test]
    fn certificate_file_is_private_and_removed_with_its_value() {
        let made = RunCertificate::generate().unwrap();
        let file = CertificateFile::write(&made).unwrap();
        let path = file.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(CertificateDer::from_pem_file(&path).unwrap(), made.certificate);
        assert_eq!(PrivateKeyDer::from_pem_file(&path).unwrap().secret_der(), made.key.secret_der());
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn lengths_are_encoded_in_as_few_bytes_as_der_requires() {
        assert_eq!(der(SEQUENCE, &[&[7; 127]])[..2], [0x30, 127]);
        assert_eq!(der(SEQUENCE, &[&[7; 128]])[..3], [0x30, 0x81, 128]);
        assert_eq!(der(SEQUENCE, &[&[7; 200], &[7; 100]])[..4], [0x30, 0x82, 1, 44]);
    }
}
