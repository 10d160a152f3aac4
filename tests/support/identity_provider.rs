//! An identity provider: an https server with a certificate of its own authority, whose documents the test chooses, and the keys
//! with which it signs tokens.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use actix_rt::task::JoinHandle;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, PublicKeyData, RsaKeySize};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use wardcast::{
    clock::WallTime,
    config::{Config, KeyConfig, Secret},
};

use super::{mark_secret, tls::Authority};

/// What the provider answers on a path.
#[derive(Clone)]
pub enum Answer {
    /// 200 with this body.
    Document(String),
    /// These bytes, from the status line on.
    Raw(Vec<u8>),
    /// Nothing, and the connection stays open.
    Silence,
    /// A head, and then a byte of the body now and then.
    Trickle,
}

#[derive(Default)]
struct Served {
    answers: HashMap<String, Answer>,
    /// Precede `answers`, each for one request.
    next_answers: HashMap<String, VecDeque<Answer>>,
    requests: Vec<String>,
}

pub struct IdentityProvider {
    pub address: SocketAddr,
    authority: Authority,
    acceptor: TlsAcceptor,
    served: Arc<Mutex<Served>>,
    accepting: Option<JoinHandle<()>>,
}

pub const DISCOVERY: &str = "/.well-known/openid-configuration";
pub const KEYS: &str = "/keys";

impl IdentityProvider {
    /// Starts a provider with these keys.
    pub async fn start(keys: &[&ProviderKey]) -> Self {
        let mut provider = Self::start_on(([127, 0, 0, 1], 0).into()).await;
        provider.publish(keys);
        let issuer = provider.issuer();
        provider
            .answer(DISCOVERY, Answer::Document(json!({"issuer": issuer, "jwks_uri": provider.url(KEYS)}).to_string()));
        provider.resume().await;
        provider
    }

    async fn start_on(address: SocketAddr) -> Self {
        let authority = Authority::new();
        let acceptor = authority.issue_for("provider", &["localhost", "127.0.0.1"]).acceptor();
        let address = TcpListener::bind(address).await.unwrap().local_addr().unwrap();
        Self { address, authority, acceptor, served: Arc::default(), accepting: None }
    }

    /// Listens again, on the same port.
    pub async fn resume(&mut self) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        let listener = socket.listen(64).unwrap();
        let (acceptor, served) = (self.acceptor.clone(), self.served.clone());
        self.accepting = Some(actix_rt::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                actix_rt::spawn(serve(stream, acceptor.clone(), served.clone()));
            }
        }));
    }

    /// Stops listening: connections are refused.
    pub async fn stop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            let _ = accepting.await;
        }
    }

    pub fn issuer(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.issuer())
    }

    pub fn answer(&self, path: &str, answer: Answer) {
        self.served.lock().unwrap().answers.insert(path.to_owned(), answer);
    }

    /// Answers the next request for this path, once.
    pub fn answer_next(&self, path: &str, answer: Answer) {
        self.served.lock().unwrap().next_answers.entry(path.to_owned()).or_default().push_back(answer);
    }

    /// Publishes these keys, and no others.
    pub fn publish(&self, keys: &[&ProviderKey]) {
        self.publish_set(&keys.iter().map(|key| key.jwk.clone()).collect::<Vec<_>>());
    }

    pub fn publish_set(&self, keys: &[Value]) {
        self.answer(KEYS, Answer::Document(json!({"keys": keys}).to_string()));
    }

    /// How often this path was asked for.
    pub fn requests(&self, path: &str) -> usize {
        self.served.lock().unwrap().requests.iter().filter(|asked| *asked == path).count()
    }

    /// Makes a hub trust the provider's certificate, connect to loopback, and retry often.
    pub fn trust(&self, config: &mut Config) {
        let sets = &mut config.auth.key_sets;
        sets.ca = Some(self.authority.root_path());
        sets.private_networks = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        sets.retry = Duration::from_millis(100);
        config.auth.hmac_secret = Secret::default();
    }

    /// The same, and adds an entry of `auth.keys` with these settings.
    pub fn configure(&self, config: &mut Config, settings: &str) {
        self.trust(config);
        config.auth.keys.push(toml::from_str::<KeyConfig>(settings).unwrap());
    }

    /// The same, for all keys that discovery finds.
    pub fn configure_issuer(&self, config: &mut Config) {
        self.configure(config, &format!("issuer_url = {:?}", self.issuer()));
    }
}

impl Drop for IdentityProvider {
    fn drop(&mut self) {
        self.accepting.iter().for_each(JoinHandle::abort);
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, served: Arc<Mutex<Served>>) {
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let answer = {
        let mut served = served.lock().unwrap();
        served.requests.push(path.clone());
        let next = served.next_answers.get_mut(&path).and_then(VecDeque::pop_front);
        next.or_else(|| served.answers.get(&path).cloned())
    };
    let respond =
        |status: &str, body: &str| format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let bytes = match answer {
        Some(Answer::Document(body)) => respond("200 OK", &body).into_bytes(),
        Some(Answer::Raw(bytes)) => bytes,
        None => respond("404 Not Found", "{}").into_bytes(),
        Some(Answer::Silence) => std::future::pending().await,
        Some(Answer::Trickle) => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await;
            while stream.write_all(b" ").await.is_ok() && stream.flush().await.is_ok() {
                actix_rt::time::sleep(Duration::from_millis(20)).await;
            }
            return;
        }
    };
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
}

/// A key with which the provider signs, and its JWK.
pub struct ProviderKey {
    kid: String,
    algorithm: Algorithm,
    private: EncodingKey,
    pub jwk: Value,
}

pub fn base64url(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

impl ProviderKey {
    /// Generates a P-256 key.
    pub fn ec(kid: &str) -> Self {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let der = pair.subject_public_key_info();
        let point = &der[der.len() - 64..];
        let (x, y) = (base64url(&point[..32]), base64url(&point[32..]));
        let jwk = json!({"kid": kid, "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "x": x, "y": y});
        let private = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
        Self { kid: kid.to_owned(), algorithm: Algorithm::ES256, private, jwk }
    }

    /// Generates an RSA key.
    pub fn rsa(kid: &str) -> Self {
        let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        let der = pair.subject_public_key_info();
        // The end of a SubjectPublicKeyInfo with 2048 bits and the exponent 65537: modulus, 02 03 01 00 01.
        let modulus = &der[der.len() - 5 - 256..der.len() - 5];
        let jwk = json!({"kid": kid, "kty": "RSA", "alg": "RS256", "use": "sig", "n": base64url(modulus), "e": "AQAB"});
        let private = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).unwrap();
        Self { kid: kid.to_owned(), algorithm: Algorithm::RS256, private, jwk }
    }

    /// Signs a token with these claims, and with `exp` in an hour unless they have one.
    pub fn sign(&self, now: WallTime, claims: Value) -> String {
        self.sign_with(json!({}), now, claims)
    }

    /// Signs a token with further header members.
    pub fn sign_with(&self, header: Value, now: WallTime, mut claims: Value) -> String {
        let claims_object = claims.as_object_mut().unwrap();
        claims_object.entry("exp").or_insert(json!(now.unix_seconds() + 3600));
        let mut all = json!({"alg": self.algorithm, "kid": self.kid, "typ": "JWT"});
        all.as_object_mut().unwrap().extend(header.as_object().unwrap().clone());
        let message = format!("{}.{}", base64url(all.to_string().as_bytes()), base64url(claims.to_string().as_bytes()));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.private, self.algorithm).unwrap();
        mark_secret(format!("{message}.{signature}"))
    }
}
