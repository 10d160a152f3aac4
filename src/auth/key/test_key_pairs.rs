//! Real key pairs for the tests of this module, generated once per run.

use std::sync::LazyLock;

use jsonwebtoken::{Algorithm, EncodingKey};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize,
    SignatureAlgorithm,
};

/// A private key and its public key.
pub(in crate::auth) struct TestKeyPair {
    pub(in crate::auth) private: EncodingKey,
    pub(in crate::auth) private_pem: String,
    pub(in crate::auth) public_pem: String,
    /// The content of the PEM, decoded.
    pub(in crate::auth) public_der: Vec<u8>,
}

type ReadPrivateKey = fn(&[u8]) -> jsonwebtoken::errors::Result<EncodingKey>;

impl TestKeyPair {
    fn from_generated(pair: &KeyPair, read: ReadPrivateKey) -> Self {
        let private_pem = pair.serialize_pem();
        Self {
            private: read(private_pem.as_bytes()).expect("a private key that jsonwebtoken reads"),
            private_pem,
            public_pem: pair.public_key_pem(),
            public_der: rcgen::PublicKeyData::subject_public_key_info(pair),
        }
    }

    fn generate(kind: &'static SignatureAlgorithm, read: ReadPrivateKey) -> Self {
        Self::from_generated(&KeyPair::generate_for(kind).expect("a key pair"), read)
    }
}

pub(in crate::auth) static RSA: LazyLock<TestKeyPair> = LazyLock::new(|| {
    let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key pair");
    TestKeyPair::from_generated(&pair, EncodingKey::from_rsa_pem)
});
pub(in crate::auth) static P256: LazyLock<TestKeyPair> =
    LazyLock::new(|| TestKeyPair::generate(&PKCS_ECDSA_P256_SHA256, EncodingKey::from_ec_pem));
pub(in crate::auth) static P384: LazyLock<TestKeyPair> =
    LazyLock::new(|| TestKeyPair::generate(&PKCS_ECDSA_P384_SHA384, EncodingKey::from_ec_pem));
pub(in crate::auth) static ED25519: LazyLock<TestKeyPair> =
    LazyLock::new(|| TestKeyPair::generate(&PKCS_ED25519, EncodingKey::from_ed_pem));

/// Returns the pair whose private key signs with this algorithm.
pub(in crate::auth) fn signing(algorithm: Algorithm) -> &'static TestKeyPair {
    match algorithm {
        Algorithm::ES256 => &P256,
        Algorithm::ES384 => &P384,
        Algorithm::EdDSA => &ED25519,
        _ => &RSA,
    }
}
