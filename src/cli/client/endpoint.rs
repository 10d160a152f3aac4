//! The address of a hub's listener, and connections to it.

use std::{
    fmt,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream, lookup_host},
};

use super::server_identity::ServerIdentity;
use crate::{
    address::UNKNOWN_ADDRESS,
    config::{BindAddress, BindAddresses, Config, UNIX},
    server::{ListenAddress, proxy},
};

/// A connection to a hub: plain or TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A listener of a hub, as a client reaches it.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Endpoint {
    /// How the server proves its identity; `None` without TLS.
    tls: Option<ServerIdentity>,
    /// Host and port, as in the URL and in `Host`.
    pub(super) authority: String,
    target: Target,
    /// What comes before the path: empty, or begins with a slash and has none at its end.
    pub(super) base_path: String,
    /// The configuration, if the listener may expect a PROXY header.
    proxy: Option<Box<Config>>,
}

/// What a client connects to.
#[derive(Clone, Debug, PartialEq)]
enum Target {
    Tcp {
        host: String,
        port: u16,
        /// Other hosts to try if nothing listens at the first.
        alternatives: Vec<IpAddr>,
    },
    Unix(PathBuf),
}

/// `Host` of a request over a Unix socket, and the name in the certificate.
const UNIX_AUTHORITY: &str = "localhost";

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls() { "https" } else { "http" };
        match &self.target {
            Target::Tcp { .. } => write!(f, "{scheme}://{}{}", self.authority, self.base_path),
            Target::Unix(path) => {
                let path = UnixUrlPath { path, base_path: &self.base_path };
                write!(f, "{scheme}://{path}")
            }
        }
    }
}

/// The path of a Unix socket and what comes before the path of requests, as URLs have them here and in nginx:
/// `http://unix:/run/wardcast.sock:/base`.
struct UnixUrlPath<'a> {
    path: &'a Path,
    base_path: &'a str,
}

impl fmt::Display for UnixUrlPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{UNIX}{}", self.path.display())?;
        if self.base_path.is_empty() { Ok(()) } else { write!(f, ":{}", self.base_path) }
    }
}

/// Returns the URL at which commands of this machine reach a hub.
pub(in crate::cli) fn url_of(address: &ListenAddress, has_tls: bool, path_prefix: &str) -> String {
    let scheme = if has_tls { "https" } else { "http" };
    match address {
        ListenAddress::Tcp(address) => format!("{scheme}://{address}{path_prefix}"),
        ListenAddress::Unix(path) => format!("{scheme}://{}", UnixUrlPath { path, base_path: path_prefix }),
    }
}

impl Endpoint {
    /// The listener for clients of this configuration's hub, on this machine.
    ///
    /// # Errors
    /// If only the hub's log has its port.
    pub(in crate::cli) fn of_public_listener(config: &Config) -> Result<Self, String> {
        let server = &config.server;
        let tls = server.tls.cert.clone().map(ServerIdentity::Exactly);
        let endpoint = Self::of_addresses("server.bind", &server.bind, tls, &server.path_prefix)?;
        Ok(endpoint.with_proxy_header(config))
    }

    /// The same listener for clients, which expects a PROXY header if this configuration says so.
    pub(super) fn with_proxy_header(self, config: &Config) -> Self {
        Self { proxy: config.server.proxy_protocol.then(|| Box::new(config.clone())), ..self }
    }

    /// The listener for the server API of this configuration's hub, on this machine.
    ///
    /// # Errors
    /// As [`Self::of_public_listener`], and if the listener wants a client certificate.
    pub(in crate::cli) fn of_api_listener(config: &Config) -> Result<Self, String> {
        let server = &config.server;
        let Some(bind) = &server.internal_bind else { return Self::of_public_listener(config) };
        if server.internal_tls.client_ca.is_some() {
            return Err(CLIENT_CERTIFICATE.to_owned());
        }
        let tls = server.internal_tls.cert.clone().map(ServerIdentity::Exactly);
        Self::of_addresses("server.internal_bind", bind, tls, &server.path_prefix)
    }

    /// The first address that a client can know without the hub's log.
    fn of_addresses(
        key: &str,
        bind: &BindAddresses,
        tls: Option<ServerIdentity>,
        path_prefix: &str,
    ) -> Result<Self, String> {
        let mut unknown = String::new();
        for address in bind.iter() {
            let (authority, target) = match address {
                BindAddress::Ip(address) if address.port() != 0 => target_of(*address),
                BindAddress::Host { name, port } if *port != 0 => {
                    let target = Target::Tcp { host: name.clone(), port: *port, alternatives: Vec::new() };
                    (address.to_string(), target)
                }
                BindAddress::Unix(path) => (UNIX_AUTHORITY.to_owned(), Target::Unix(path.clone())),
                BindAddress::Ip(_) | BindAddress::Host { .. } => {
                    unknown = format!("{key} has the port 0, so only the hub's log has its port");
                    continue;
                }
                BindAddress::Systemd(_) => {
                    unknown = format!("{key} has sockets of systemd, so only its socket unit has their addresses");
                    continue;
                }
            };
            return Ok(Self { tls, authority, target, base_path: path_prefix.to_owned(), proxy: None });
        }
        Err(format!("{unknown}; name one: --url http://127.0.0.1:PORT, or --url http://unix:/run/wardcast/hub.sock"))
    }

    /// The listener of a URL.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub(in crate::cli) fn from_url(url: &str, identity: ServerIdentity) -> Result<Self, String> {
        let (tls, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (None, rest),
            (_, Some(rest)) => (Some(identity), rest),
            _ => return Err("--url must begin with http:// or https://".to_owned()),
        };
        if let Some(path) = rest.strip_prefix(UNIX) {
            let (path, base) = path.split_once(':').unwrap_or((path, ""));
            let (authority, target) = (UNIX_AUTHORITY.to_owned(), Target::Unix(path.into()));
            return Ok(Self { tls, authority, target, base_path: base.trim_end_matches('/').to_owned(), proxy: None });
        }
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let after_host = authority.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match authority[after_host..].rfind(':') {
            Some(at) => (&authority[..after_host + at], authority[after_host + at + 1..].parse().ok()),
            None => (authority, Some(if tls.is_some() { 443 } else { 80 })),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.ok_or_else(|| format!("{url}: the port is not a number below 65536"))?;
        Ok(Self {
            tls,
            authority: authority.to_owned(),
            target: Target::Tcp { host: host.to_owned(), port, alternatives: Vec::new() },
            base_path: path.trim_end_matches('/').to_owned(),
            proxy: None,
        })
    }

    /// Returns whether it is on this machine.
    pub(super) fn is_loopback(&self) -> bool {
        match &self.target {
            Target::Tcp { host, .. } => {
                host == "localhost" || host.parse().is_ok_and(|host: IpAddr| host.is_loopback())
            }
            Target::Unix(_) => true,
        }
    }

    pub(super) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Opens a connection.
    pub(super) async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let (mut stream, own_address, host): (Box<dyn Stream>, _, _) = match &self.target {
            Target::Tcp { host, port, alternatives } => {
                let tcp = connect_tcp(host, *port, alternatives).await?;
                tcp.set_nodelay(true)?;
                let own_address = tcp.local_addr()?.ip();
                (Box::new(tcp), own_address, host.as_str())
            }
            Target::Unix(path) => (Box::new(UnixStream::connect(path).await?), UNKNOWN_ADDRESS, UNIX_AUTHORITY),
        };
        if self.proxy.as_ref().is_some_and(|config| config.server.is_trusted_proxy(own_address)) {
            stream.write_all(&proxy::LOCAL_HEADER).await?;
        }
        let Some(identity) = &self.tls else { return Ok(stream) };
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        Ok(Box::new(identity.connector()?.connect(name, stream).await?))
    }

    /// Says what failed at this listener, and what to do.
    pub(in crate::cli) fn describe(&self, error: &io::Error) -> String {
        match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::NotFound => format!(
                "{self}: {error}; no hub listens there: start it, or give this command the --config, variables and --set \
                 with which it was started, or its --url"
            ),
            _ => format!("{self}: {error}"),
        }
    }
}

/// Returns how a client of this machine reaches an address: a wildcard by loopback.
fn target_of(bind: SocketAddr) -> (String, Target) {
    let (host, alternatives): (IpAddr, _) = match bind.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => (Ipv4Addr::LOCALHOST.into(), Vec::new()),
        // It listens for IPv4, too, and the loopback of a machine may have no IPv6.
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => (Ipv6Addr::LOCALHOST.into(), vec![Ipv4Addr::LOCALHOST.into()]),
        host => (host, Vec::new()),
    };
    let authority = SocketAddr::new(host, bind.port()).to_string();
    (authority, Target::Tcp { host: host.to_string(), port: bind.port(), alternatives })
}

async fn connect_tcp(host: &str, port: u16, alternatives: &[IpAddr]) -> io::Result<TcpStream> {
    let mut addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    addresses.extend(alternatives.iter().map(|host| SocketAddr::new(*host, port)));
    TcpStream::connect(addresses.as_slice()).await
}

const CLIENT_CERTIFICATE: &str = "the server API wants a client certificate (server.internal_tls.client_ca), which this command cannot \
    send; use curl with --cert and --key";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_follows_the_address_and_tls_of_the_configuration() {
        let endpoint = |bind: &str, tls: bool| {
            let mut config = Config::default();
            config.server.bind = bind.parse().unwrap();
            config.server.tls.cert = tls.then(|| "cert.pem".into());
            let endpoint = Endpoint::of_public_listener(&config)?;
            let alternatives = match &endpoint.target {
                Target::Tcp { alternatives, .. } => alternatives.len(),
                Target::Unix(_) => 0,
            };
            Ok::<_, String>((endpoint.to_string(), alternatives))
        };
        for (bind, tls, url, alternatives) in [
            ("127.0.0.1:8000", false, "http://127.0.0.1:8000", 0),
            ("0.0.0.0:443", true, "https://127.0.0.1:443", 0),
            ("[::]:8000", false, "http://[::1]:8000", 1),
            ("192.0.2.1:9", true, "https://192.0.2.1:9", 0),
            ("systemd:,localhost:0,localhost:8000", false, "http://localhost:8000", 0),
            ("unix:/run/a.sock,127.0.0.1:8000", false, "http://unix:/run/a.sock", 0),
        ] {
            assert_eq!(endpoint(bind, tls), Ok((url.to_owned(), alternatives)), "{bind}");
        }
        assert!(endpoint("127.0.0.1:0", false).unwrap_err().contains("--url"));
        assert!(endpoint("systemd:", false).unwrap_err().contains("socket unit"));
    }

    #[test]
    fn server_api_is_on_the_internal_listener_if_there_is_one() {
        let mut config = Config::default();
        assert_eq!(Endpoint::of_api_listener(&config).unwrap().to_string(), "http://127.0.0.1:8000");
        config.server.internal_bind = Some(([127, 0, 0, 1], 9000).into());
        config.server.tls.cert = Some("public.pem".into());
        assert_eq!(Endpoint::of_api_listener(&config).unwrap().to_string(), "http://127.0.0.1:9000");
        config.server.internal_tls.cert = Some("internal.pem".into());
        assert_eq!(Endpoint::of_api_listener(&config).unwrap().to_string(), "https://127.0.0.1:9000");
        config.server.internal_tls.client_ca = Some("ca.pem".into());
        assert!(Endpoint::of_api_listener(&config).unwrap_err().contains("client_ca"));
    }

    #[test]
    fn url_may_have_any_host_and_no_port() {
        let parsed = |url: &str| {
            Endpoint::from_url(url, ServerIdentity::Any)
                .map(|endpoint| (endpoint.is_tls(), endpoint.target, endpoint.base_path))
        };
        let unix = || Target::Unix("/run/a.sock".into());
        for (url, path) in [("http://unix:/run/a.sock", ""), ("http://unix:/run/a.sock:/realtime/", "/realtime")] {
            assert_eq!(parsed(url), Ok((false, unix(), path.to_owned())), "{url}");
            let printed = Endpoint::from_url(url, ServerIdentity::Any).unwrap().to_string();
            assert_eq!(printed, url.trim_end_matches('/'));
        }
        for (url, tls, host, port, path) in [
            ("http://127.0.0.1:8000/health/live", false, "127.0.0.1", 8000, "/health/live"),
            ("https://[::1]:9/", true, "::1", 9, ""),
            ("https://[::1]", true, "::1", 443, ""),
            ("http://hub.example.com", false, "hub.example.com", 80, ""),
        ] {
            let target = Target::Tcp { host: host.to_owned(), port, alternatives: Vec::new() };
            assert_eq!(parsed(url), Ok((tls, target, path.to_owned())), "{url}");
        }
        for (url, problem) in
            [("ftp://a", "http://"), ("http://127.0.0.1:port/", "port"), ("http://[::1]:70000", "port")]
        {
            assert!(parsed(url).unwrap_err().contains(problem), "{url}");
        }
    }
}
