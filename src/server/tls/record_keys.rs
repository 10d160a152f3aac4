//! The keys of TLS 1.3 records, in little memory. A cipher works with an expanded key: that of AES-GCM has 600 bytes, and each
//! connection has two. Here a connection keeps the 32 bytes that the key is made of, and expands them for each record,
//! which takes 0.1 µs. The ciphers and everything else are those of the library.

use std::sync::LazyLock;

use ::aws_lc_rs::aead::{self, Aad, LessSafeKey, UnboundKey};
use rustls::{
    CipherSuite, ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion, SupportedCipherSuite, Tls13CipherSuite,
    crypto::{
        CipherSuiteCommon, CryptoProvider, aws_lc_rs,
        cipher::{
            AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter, Nonce,
            OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload, Tls13AeadAlgorithm,
            UnsupportedOperationError, make_tls13_aad,
        },
    },
};

/// The cipher suites of TLS 1.3 with small keys, in the order of the library.
static SUITES: LazyLock<Vec<Tls13CipherSuite>> = LazyLock::new(|| {
    let suites = aws_lc_rs::ALL_CIPHER_SUITES.iter().filter_map(SupportedCipherSuite::tls13);
    suites.filter_map(|suite| Some((suite, algorithm(suite.common.suite)?))).map(with_small_keys).collect()
});

/// Returns the cryptography of the library, with small keys for TLS 1.3.
pub(super) fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    for suite in &mut provider.cipher_suites {
        if let Some(small) = SUITES.iter().find(|small| small.common.suite == suite.suite()) {
            *suite = SupportedCipherSuite::Tls13(small);
        }
    }
    provider
}

/// Returns whether TLS 1.3 has small keys with `provider`.
#[cfg(test)]
pub(super) fn are_small(provider: &CryptoProvider) -> bool {
    let mut suites = provider.cipher_suites.iter().filter_map(SupportedCipherSuite::tls13);
    suites.all(|suite| SUITES.iter().any(|small| std::ptr::eq(small, suite)))
}

fn algorithm(suite: CipherSuite) -> Option<&'static SmallKeyAead> {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => Some(&SmallKeyAead(&aead::AES_128_GCM)),
        CipherSuite::TLS13_AES_256_GCM_SHA384 => Some(&SmallKeyAead(&aead::AES_256_GCM)),
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Some(&SmallKeyAead(&aead::CHACHA20_POLY1305)),
        _ => None,
    }
}

fn with_small_keys((suite, aead_alg): (&Tls13CipherSuite, &'static SmallKeyAead)) -> Tls13CipherSuite {
    let CipherSuiteCommon { suite: name, hash_provider, confidentiality_limit } = suite.common;
    Tls13CipherSuite {
        common: CipherSuiteCommon { suite: name, hash_provider, confidentiality_limit },
        hkdf_provider: suite.hkdf_provider,
        aead_alg,
        quic: None,
    }
}

/// A cipher whose keys are expanded for each record.
struct SmallKeyAead(&'static aead::Algorithm);

/// The key of one direction of a connection, which both encrypts and decrypts.
struct SmallKey {
    algorithm: &'static aead::Algorithm,
    key: AeadKey,
    iv: Iv,
}

impl SmallKey {
    fn expand(&self) -> Result<LessSafeKey, Error> {
        let key = UnboundKey::new(self.algorithm, self.key.as_ref());
        key.map(LessSafeKey::new).map_err(|_| Error::General("key of a wrong length".into()))
    }

    /// The nonce of a record (RFC 8446 §5.3). rustls numbers the records of a key and uses no number twice.
    fn nonce(&self, seq: u64) -> aead::Nonce {
        aead::Nonce::assume_unique_for_key(Nonce::new(&self.iv, seq).0)
    }
}

impl Tls13AeadAlgorithm for SmallKeyAead {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(SmallKey { algorithm: self.0, key, iv })
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Box::new(SmallKey { algorithm: self.0, key, iv })
    }

    fn key_len(&self) -> usize {
        self.0.key_len()
    }

    fn extract_keys(&self, _: AeadKey, _: Iv) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        // Nothing but rustls encrypts the records.
        Err(UnsupportedOperationError)
    }
}

impl MessageEncrypter for SmallKey {
    fn encrypt(&mut self, message: OutboundPlainMessage<'_>, seq: u64) -> Result<OutboundOpaqueMessage, Error> {
        let bytes = self.encrypted_payload_len(message.payload.len());
        let mut payload = PrefixedPayload::with_capacity(bytes);
        payload.extend_from_chunks(&message.payload);
        // The content type follows the content (RFC 8446 §5.2).
        payload.extend_from_slice(&message.typ.to_array());
        let aad = Aad::from(make_tls13_aad(bytes));
        self.expand()?.seal_in_place_append_tag(self.nonce(seq), aad, &mut payload).map_err(|_| Error::EncryptError)?;
        Ok(OutboundOpaqueMessage::new(ContentType::ApplicationData, ProtocolVersion::TLSv1_2, payload))
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        payload_len + 1 + self.algorithm.tag_len()
    }
}

impl MessageDecrypter for SmallKey {
    fn decrypt<'a>(
        &mut self,
        mut message: InboundOpaqueMessage<'a>,
        seq: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let payload = &mut message.payload;
        if payload.len() < self.algorithm.tag_len() {
            return Err(Error::DecryptError);
        }
        let aad = Aad::from(make_tls13_aad(payload.len()));
        let opened = self.expand()?.open_in_place(self.nonce(seq), aad, payload);
        let bytes = opened.map_err(|_| Error::DecryptError)?.len();
        payload.truncate(bytes);
        message.into_tls13_unpadded_message()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_suites_of_tls_13_have_small_keys_and_the_order_of_the_library() {
        let (ours, library) = (provider().cipher_suites, aws_lc_rs::default_provider().cipher_suites);
        assert_eq!(ours, library);
        let aeads = |suites: &[SupportedCipherSuite]| -> Vec<_> {
            suites
                .iter()
                .filter_map(SupportedCipherSuite::tls13)
                .map(|suite| (&raw const *suite.aead_alg).addr())
                .collect()
        };
        assert!(aeads(&ours).iter().zip(aeads(&library)).all(|(one, other)| *one != other));
        assert_eq!((aeads(&ours).len(), SUITES.len()), (3, 3));
        assert!(size_of::<SmallKey>() <= 72, "{}", size_of::<SmallKey>());
    }
}
