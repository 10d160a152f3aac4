//! The ws, wss, http and https URLs of the command line, parsed and resolved once.

use std::net::{SocketAddr, ToSocketAddrs};

use actix_web::http::Uri;

use crate::error::{BenchError, Context, Result, fail};

/// A URL that this program connects to.
#[derive(Clone)]
pub(crate) struct TargetUrl {
    /// Whether the scheme is wss or https.
    pub(crate) is_tls: bool,
    /// The host without port, as a certificate has it.
    pub(crate) host: String,
    /// Host and port as the `Host` header has them.
    pub(crate) authority: String,
    /// An address of the host, IPv4 if it has one.
    pub(crate) address: SocketAddr,
    /// Path and query, at least `/`.
    pub(crate) path: String,
}

impl TargetUrl {
    /// Parses `url` and resolves its host.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let uri: Uri = url.parse().context(url)?;
        let (is_tls, default_port) = match uri.scheme_str() {
            Some("ws" | "http") => (false, 80),
            Some("wss" | "https") => (true, 443),
            _ => return fail(format!("{url}: a URL begins with ws://, wss://, http:// or https://")),
        };
        let (authority, host) =
            (uri.authority().map_or("", |authority| authority.as_str()), uri.host().unwrap_or_default());
        let port = match uri.port_u16() {
            None if authority != host => return fail(format!("{url}: the port is not a number")),
            port => port.unwrap_or(default_port),
        };
        let host = host.trim_matches(['[', ']']);
        let addresses = (host, port).to_socket_addrs();
        let addresses: Vec<SocketAddr> = addresses.context(format_args!("resolving {host}"))?.collect();
        let address = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
        Ok(Self {
            is_tls,
            host: host.to_owned(),
            authority: authority.to_owned(),
            address: *address.ok_or_else(|| BenchError(format!("{url}: the host has no address")))?,
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }

    /// Scheme, host and port: what a report says of it, without a query that may hold a secret.
    pub(crate) fn origin(&self) -> String {
        format!("{}://{}", if self.is_tls { "wss" } else { "ws" }, self.authority)
    }

    /// The same server with another path.
    pub(crate) fn with_path(&self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self.clone() }
    }

    /// Returns whether the address is on 127.0.0.0/8, where a client may choose among many source addresses.
    pub(crate) fn is_ipv4_loopback(&self) -> bool {
        self.address.is_ipv4() && self.address.ip().is_loopback()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_parsed() {
        let target = TargetUrl::parse("ws://127.0.0.1:8000/connection/websocket?x=1").unwrap();
        assert!(!target.is_tls);
        assert_eq!(target.authority, "127.0.0.1:8000");
        assert_eq!(target.path, "/connection/websocket?x=1");
        let target = TargetUrl::parse("wss://[::1]").unwrap();
        assert!(target.is_tls);
        assert_eq!((target.host.as_str(), target.address.port(), target.path.as_str()), ("::1", 443, "/"));
        for wrong in ["127.0.0.1", "ftp://127.0.0.1", "ws://127.0.0.1:port"] {
            assert!(TargetUrl::parse(wrong).is_err(), "{wrong}");
        }
    }
}
