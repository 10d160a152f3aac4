//! The address of Redis or of its sentinels, the user, and TLS, from the configuration: what a connection needs to know before
//! it is made. Files are read here, once, so that a fault in them is found at start.

use std::{fs, path::Path, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisResult,
    TlsCertificates, io::tcp::TcpSettings,
};
use rustls_pki_types::CertificateDer;

use super::super::RedisConfigError;
use crate::{
    certificate,
    config::{RedisConfig, RedisSentinelConfig, RedisTlsConfig, Secret},
};

/// The kernel closes a connection that does not answer a keep-alive or accept its bytes for this long. The broker's own
/// deadlines are shorter; this one also ends connections that no call is waiting for.
const TCP_TIMEOUT: Duration = Duration::from_secs(15);

/// What a section of the configuration says about the way to a server.
struct Section<'a> {
    /// All entries of a list of URLs.
    urls: &'a [Secret],
    username: Option<&'a str>,
    password: &'a Secret,
    tls: &'a RedisTlsConfig,
    keys: &'static SectionKeys,
}

/// The names of the keys of a section.
struct SectionKeys {
    url: &'static str,
    /// Why its URLs name no database, if they must not.
    no_database: Option<&'static str>,
    username: &'static str,
    password: &'static str,
    tls: &'static str,
    ca: &'static str,
    cert: &'static str,
    key: &'static str,
}

static SERVER_KEYS: SectionKeys = redis_keys("broker.redis.url", None);
static SERVERS_KEYS: SectionKeys = redis_keys("broker.redis.urls", None);
static CLUSTER_KEYS: SectionKeys = redis_keys("broker.redis.cluster.urls", Some("a Redis Cluster has only database 0"));

const fn redis_keys(url: &'static str, no_database: Option<&'static str>) -> SectionKeys {
    SectionKeys {
        url,
        no_database,
        username: "broker.redis.username",
        password: "broker.redis.password",
        tls: "broker.redis.tls",
        ca: "broker.redis.tls.ca",
        cert: "broker.redis.tls.cert",
        key: "broker.redis.tls.key",
    }
}

static SENTINEL_KEYS: SectionKeys = SectionKeys {
    url: "broker.redis.sentinel.urls",
    no_database: Some("a sentinel has no databases; that of the master is in broker.redis.url"),
    username: "broker.redis.sentinel.username",
    password: "broker.redis.sentinel.password",
    tls: "broker.redis.sentinel.tls",
    ca: "broker.redis.sentinel.tls.ca",
    cert: "broker.redis.sentinel.tls.cert",
    key: "broker.redis.sentinel.tls.key",
};

/// Creates the client of `url`, which is `broker.redis.url` or an entry of a list of URLs. Nothing is connected.
pub(super) fn new(config: &RedisConfig) -> Result<Client, RedisConfigError> {
    server_section(config).client(&config.url)
}

fn server_section(config: &RedisConfig) -> Section<'_> {
    let (keys, urls) = match (config.cluster.urls.as_slice(), config.urls.as_slice()) {
        ([], []) => (&SERVER_KEYS, &[][..]),
        ([], urls) => (&SERVERS_KEYS, urls),
        (urls, _) => (&CLUSTER_KEYS, urls),
    };
    Section { urls, username: config.username.as_deref(), password: &config.password, tls: &config.tls, keys }
}

/// Creates a client for each sentinel. Nothing is connected.
pub(super) fn of_sentinels(config: &RedisSentinelConfig) -> Result<Vec<Client>, RedisConfigError> {
    let section = Section {
        urls: &config.urls,
        username: config.username.as_deref(),
        password: &config.password,
        tls: &config.tls,
        keys: &SENTINEL_KEYS,
    };
    config.urls.iter().map(|url| section.client(url)).collect()
}

/// Describes why the URL of a server cannot be used.
pub(super) fn url_fault(config: &RedisConfig, error: impl ToString) -> RedisConfigError {
    server_section(config).invalid_url(&config.url, error)
}

/// Returns a client with the user, password, database, and TLS of `client`, for a server at another address. Sentinels and
/// clusters name these.
pub(super) fn at(client: &Client, host: &str, port: u16) -> RedisResult<Client> {
    let info = client.get_connection_info().clone();
    let address = match info.addr().clone() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host: host.to_owned(), port, insecure, tls_params }
        }
        _ => ConnectionAddr::Tcp(host.to_owned(), port),
    };
    Client::open(info.set_addr(address))
}

impl Section<'_> {
    fn client(&self, url: &Secret) -> Result<Client, RedisConfigError> {
        let info = self.connection_info(url)?;
        match info.addr() {
            ConnectionAddr::TcpTls { insecure: false, .. } => {
                Client::build_with_tls(info, self.read_certificates()?).map_err(|error| fault(self.keys.tls, error))
            }
            ConnectionAddr::TcpTls { .. } => {
                let problem =
                    format!("must not end with #insecure, which accepts any certificate; set {} instead", self.keys.ca);
                Err(self.url_fault(url, problem))
            }
            _ => Client::open(info).map_err(|error| self.invalid_url(url, error)),
        }
    }

    fn connection_info(&self, url: &Secret) -> Result<ConnectionInfo, RedisConfigError> {
        let info = url.expose().into_connection_info().map_err(|error| self.invalid_url(url, error))?;
        if let Some(reason) = self.keys.no_database.filter(|_| info.redis_settings().db() != 0) {
            return Err(self.url_fault(url, format!("must not name a database: {reason}")));
        }
        // RESP3 even if the URL says otherwise: in RESP2 a connection that has subscribed accepts no other commands.
        // Without the name of the library: a user with minimal rights may not set it, and each refusal would be in the ACL LOG.
        let mut redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
        for (key, is_in_url, is_set) in [
            (self.keys.username, redis.username().is_some(), self.username.is_some()),
            (self.keys.password, redis.password().is_some(), !self.password.is_empty()),
        ] {
            if is_in_url && is_set {
                return Err(fault(key, format!("is in {}, too; remove one of them", self.keys.url)));
            }
        }
        if let Some(username) = self.username {
            redis = redis.set_username(username);
        }
        if !self.password.is_empty() {
            redis = redis.set_password(self.password.expose());
        }
        if redis.username().is_some() && redis.password().is_none() {
            return Err(fault(self.keys.password, "must be set, because a username is"));
        }
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(socket2::TcpKeepalive::new().with_time(TCP_TIMEOUT).with_interval(TCP_TIMEOUT / 3))
            .set_user_timeout(TCP_TIMEOUT);
        Ok(info.set_redis_settings(redis).set_tcp_settings(tcp))
    }

    fn invalid_url(&self, url: &Secret, error: impl ToString) -> RedisConfigError {
        let error = error.to_string();
        // The kind of error in redis-rs, which the sentence has said.
        let error = error.trim_end_matches(" - InvalidClientConfig");
        let form = "redis://[user:password@]host:port, with special characters of the password percent-encoded";
        self.url_fault(url, format!("is not a valid URL: {error}; write it as {form}, or rediss:// for TLS"))
    }

    /// Describes a problem of a URL: of which entry, if there are several.
    fn url_fault(&self, url: &Secret, problem: impl ToString) -> RedisConfigError {
        let entry = self.urls.iter().position(|entry| entry == url).filter(|_| self.urls.len() > 1);
        let entry = entry.map_or_else(String::new, |index| format!("entry {} ", index + 1));
        fault(self.keys.url, format!("{entry}{}", problem.to_string()))
    }

    /// Reads and checks the files. redis-rs takes PEM.
    fn read_certificates(&self) -> Result<TlsCertificates, RedisConfigError> {
        let roots = match &self.tls.ca {
            Some(file) => certificate::read_roots(file).map_err(|error| fault(self.keys.ca, error))?,
            // redis-rs would read them for every connection, and refuse all because of one that it cannot read.
            None => certificate::system_roots().map_err(|error| fault(self.keys.ca, error))?,
        };
        let client_tls = match (&self.tls.cert, &self.tls.key) {
            (Some(cert), Some(key)) => Some(self.read_client_certificate(cert, key)?),
            _ => None,
        };
        Ok(TlsCertificates { client_tls, root_cert: Some(to_pem(&roots).into_bytes()) })
    }

    fn read_client_certificate(&self, cert: &Path, key: &Path) -> Result<ClientTlsConfig, RedisConfigError> {
        certificate::read_chain(cert).map_err(|error| fault(self.keys.cert, error))?;
        certificate::read_pair(cert, key).map_err(|error| fault(self.keys.key, error))?;
        let read = |key, path: &Path| fs::read(path).map_err(|error| fault(key, error));
        Ok(ClientTlsConfig { client_cert: read(self.keys.cert, cert)?, client_key: read(self.keys.key, key)? })
    }
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
