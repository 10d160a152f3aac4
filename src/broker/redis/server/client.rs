//! The address of Redis, the user, and TLS, from the configuration: what a connection needs to know before it is made. Files are
//! read here, once, so that a fault in them is found at start.

use std::{fs, path::Path, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, TlsCertificates,
    io::tcp::TcpSettings,
};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;

use super::super::RedisConfigError;
use crate::{
    certificate,
    config::{self, RedisTlsConfig},
};

/// The kernel closes a connection that does not answer a keep-alive or accept its bytes for this long. The broker's own
/// deadlines are shorter; this one also ends connections that no call is waiting for.
const TCP_TIMEOUT: Duration = Duration::from_secs(15);

const CA: &str = "broker.redis.tls.ca";
const CERT: &str = "broker.redis.tls.cert";
const KEY: &str = "broker.redis.tls.key";

/// Creates the client from the configuration. Nothing is connected.
pub(super) fn new(config: &config::RedisConfig) -> Result<Client, RedisConfigError> {
    let info = connection_info(config)?;
    match info.addr() {
        ConnectionAddr::TcpTls { insecure: false, .. } => Client::build_with_tls(info, read_certificates(&config.tls)?)
            .map_err(|error| fault("broker.redis.tls", error)),
        ConnectionAddr::TcpTls { .. } => {
            let problem = "must not end with #insecure, which accepts any certificate; set broker.redis.tls.ca instead";
            Err(fault("broker.redis.url", problem))
        }
        _ => Client::open(info).map_err(url_error),
    }
}

pub(super) fn url_error(error: impl ToString) -> RedisConfigError {
    let form = "redis://[user:password@]host:port, with special characters of the password percent-encoded";
    let problem = format!("is not a valid URL: {}; write it as {form}, or rediss:// for TLS", error.to_string());
    fault("broker.redis.url", problem)
}

fn connection_info(config: &config::RedisConfig) -> Result<ConnectionInfo, RedisConfigError> {
    let info = config.url.expose().into_connection_info().map_err(url_error)?;
    // RESP3 even if the URL says otherwise: in RESP2 a connection that has subscribed accepts no other commands.
    let mut redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    for (key, is_in_url, is_set) in [
        ("broker.redis.username", redis.username().is_some(), config.username.is_some()),
        ("broker.redis.password", redis.password().is_some(), !config.password.is_empty()),
    ] {
        if is_in_url && is_set {
            return Err(fault(key, "is in broker.redis.url, too; remove one of them"));
        }
    }
    if let Some(username) = &config.username {
        redis = redis.set_username(username);
    }
    if !config.password.is_empty() {
        redis = redis.set_password(config.password.expose());
    }
    if redis.username().is_some() && redis.password().is_none() {
        return Err(fault("broker.redis.password", "must be set, because a username is"));
    }
    let tcp = TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(socket2::TcpKeepalive::new().with_time(TCP_TIMEOUT).with_interval(TCP_TIMEOUT / 3))
        .set_user_timeout(TCP_TIMEOUT);
    Ok(info.set_redis_settings(redis).set_tcp_settings(tcp))
}

/// Reads and checks the files of `[broker.redis.tls]`. redis-rs takes PEM.
fn read_certificates(tls: &RedisTlsConfig) -> Result<TlsCertificates, RedisConfigError> {
    let roots = match &tls.ca {
        Some(file) => certificate::read_roots(file).map_err(|error| fault(CA, error))?,
        None => system_roots()?,
    };
    let client_tls = match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => Some(read_client_certificate(cert, key)?),
        _ => None,
    };
    Ok(TlsCertificates { client_tls, root_cert: Some(to_pem(&roots).into_bytes()) })
}

fn read_client_certificate(cert: &Path, key: &Path) -> Result<ClientTlsConfig, RedisConfigError> {
    certificate::read_chain(cert).map_err(|error| fault(CERT, error))?;
    certificate::read_pair(cert, key).map_err(|error| fault(KEY, error))?;
    let read = |key, path: &Path| fs::read(path).map_err(|error| fault(key, error));
    Ok(ClientTlsConfig { client_cert: read(CERT, cert)?, client_key: read(KEY, key)? })
}

/// The certificate authorities of the system. redis-rs would read them for every connection, and refuse all because of one that
/// it cannot read.
fn system_roots() -> Result<Vec<CertificateDer<'static>>, RedisConfigError> {
    let mut roots = rustls_native_certs::load_native_certs().certs;
    roots.retain(|root| RootCertStore::empty().add(root.clone()).is_ok());
    if roots.is_empty() {
        let problem = "the system has no certificate authorities; install the package ca-certificates, or name the PEM \
                       file of your own";
        return Err(fault(CA, problem));
    }
    Ok(roots)
}

fn to_pem(certificates: &[CertificateDer<'_>]) -> String {
    let blocks = certificates.iter().map(|certificate| {
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(certificate))
    });
    blocks.collect()
}

fn fault(key: &'static str, problem: impl ToString) -> RedisConfigError {
    RedisConfigError { key, problem: problem.to_string() }
}
