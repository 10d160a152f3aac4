//! Where a listener of a hub is, and connections to it.

use std::{
    fmt,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, lookup_host},
};

use super::server_identity::ServerIdentity;
use crate::{config::Config, server::proxy};

/// A connection to a hub: plain or TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A listener of a hub, as a client reaches it.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Endpoint {
    /// How the server proves its identity; `None` without TLS.
    tls: Option<ServerIdentity>,
    /// Host and port, as in the URL.
    pub(super) authority: String,
    host: String,
    port: u16,
    /// Other hosts to try if nothing listens at the first.
    alternatives: Vec<IpAddr>,
    /// What comes before the path: empty, or begins with a slash and has none at its end.
    pub(super) base_path: String,
    /// The configuration, if the listener may expect a PROXY header.
    proxy: Option<Box<Config>>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls() { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.base_path)
    }
}

impl Endpoint {
    /// The listener for clients of this configuration's hub, on this machine.
    ///
    /// # Errors
    /// If only the hub's log has its port.
    pub(in crate::cli) fn of_public_listener(config: &Config) -> Result<Self, String> {
        let server = &config.server;
        let endpoint =
            Self::of_address("server.bind", server.bind, server.tls.cert.clone().map(ServerIdentity::Exactly))?;
        Ok(Self { proxy: server.proxy_protocol.then(|| Box::new(config.clone())), ..endpoint })
    }

    /// The listener for the server API of this configuration's hub, on this machine.
    ///
    /// # Errors
    /// As [`Self::of_public_listener`], and if the listener wants a client certificate.
    pub(in crate::cli) fn of_api_listener(config: &Config) -> Result<Self, String> {
        let server = &config.server;
        let Some(bind) = server.internal_bind else { return Self::of_public_listener(config) };
        if server.internal_tls.client_ca.is_some() {
            return Err(CLIENT_CERTIFICATE.to_owned());
        }
        Self::of_address("server.internal_bind", bind, server.internal_tls.cert.clone().map(ServerIdentity::Exactly))
    }

    fn of_address(key: &str, bind: SocketAddr, tls: Option<ServerIdentity>) -> Result<Self, String> {
        if bind.port() == 0 {
            return Err(format!(
                "{key} has the port 0, so only the hub's log has its port; name it: --url http://127.0.0.1:PORT"
            ));
        }
        let (host, alternatives): (IpAddr, _) = match bind.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => (Ipv4Addr::LOCALHOST.into(), Vec::new()),
            // It listens for IPv4, too, and the loopback of a machine may have no IPv6.
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => (Ipv6Addr::LOCALHOST.into(), vec![Ipv4Addr::LOCALHOST.into()]),
            host => (host, Vec::new()),
        };
        Ok(Self {
            tls,
            authority: SocketAddr::new(host, bind.port()).to_string(),
            host: host.to_string(),
            port: bind.port(),
            alternatives,
            base_path: String::new(),
            proxy: None,
        })
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
            host: host.to_owned(),
            port,
            alternatives: Vec::new(),
            base_path: path.trim_end_matches('/').to_owned(),
            proxy: None,
        })
    }

    /// Returns whether it is on this machine.
    pub(super) fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse().is_ok_and(|host: IpAddr| host.is_loopback())
    }

    pub(super) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Opens a connection.
    pub(super) async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let mut tcp = self.connect_tcp().await?;
        tcp.set_nodelay(true)?;
        if let Some(config) = &self.proxy
            && config.server.is_trusted_proxy(tcp.local_addr()?.ip())
        {
            tcp.write_all(&proxy::LOCAL_HEADER).await?;
        }
        let Some(identity) = &self.tls else { return Ok(Box::new(tcp)) };
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        Ok(Box::new(identity.connector()?.connect(name, tcp).await?))
    }

    async fn connect_tcp(&self) -> io::Result<TcpStream> {
        let mut addresses: Vec<SocketAddr> = lookup_host((self.host.as_str(), self.port)).await?.collect();
        addresses.extend(self.alternatives.iter().map(|host| SocketAddr::new(*host, self.port)));
        TcpStream::connect(addresses.as_slice()).await
    }

    /// Says what failed at this listener, and what to do.
    pub(in crate::cli) fn describe(&self, error: &io::Error) -> String {
        match error.kind() {
            ErrorKind::ConnectionRefused => format!(
                "{self}: {error}; no hub listens there: start it, or name its address by the --config, variables and --set \
                 that it was started with, or by --url"
            ),
            _ => format!("{self}: {error}"),
        }
    }
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
            Ok::<_, String>((endpoint.to_string(), endpoint.alternatives.len()))
        };
        for (bind, tls, url, alternatives) in [
            ("127.0.0.1:8000", false, "http://127.0.0.1:8000", 0),
            ("0.0.0.0:443", true, "https://127.0.0.1:443", 0),
            ("[::]:8000", false, "http://[::1]:8000", 1),
            ("192.0.2.1:9", true, "https://192.0.2.1:9", 0),
        ] {
            assert_eq!(endpoint(bind, tls), Ok((url.to_owned(), alternatives)), "{bind}");
        }
        assert!(endpoint("127.0.0.1:0", false).unwrap_err().contains("--url"));
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
                .map(|endpoint| (endpoint.is_tls(), endpoint.host, endpoint.port, endpoint.base_path))
        };
        for (url, tls, host, port, path) in [
            ("http://127.0.0.1:8000/health/live", false, "127.0.0.1", 8000, "/health/live"),
            ("https://[::1]:9/", true, "::1", 9, ""),
            ("https://[::1]", true, "::1", 443, ""),
            ("http://hub.example.com", false, "hub.example.com", 80, ""),
        ] {
            assert_eq!(parsed(url), Ok((tls, host.to_owned(), port, path.to_owned())), "{url}");
        }
        for (url, problem) in
            [("ftp://a", "http://"), ("http://127.0.0.1:port/", "port"), ("http://[::1]:70000", "port")]
        {
            assert!(parsed(url).unwrap_err().contains(problem), "{url}");
        }
    }
}
