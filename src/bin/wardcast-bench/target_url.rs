//! Where a run goes: the ws, wss, http and https URLs of the command line, taken apart and resolved once.

use std::net::{SocketAddr, ToSocketAddrs};

use crate::error::{BenchError, IoContext, Result};

/// A URL this program connects to.
#[derive(Debug, Clone)]
pub(crate) struct TargetUrl {
    /// Whether TLS is spoken.
    pub(crate) tls: bool,
    /// The name without port, as a certificate has it.
    pub(crate) host: String,
    /// `host:port` as the Host header has it.
    pub(crate) authority: String,
    /// What the name resolved to (IPv4 first).
    pub(crate) address: SocketAddr,
    /// Path and query, at least `/`.
    pub(crate) path: String,
}

impl TargetUrl {
    /// Takes `url` apart and resolves its host.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let usage = |fault: &str| BenchError::Usage(format!("{url}: {fault}"));
        let (scheme, rest) =
            url.split_once("://").ok_or_else(|| usage("a URL begins with ws://, wss://, http:// or https://"))?;
        let (tls, default_port) = match scheme {
            "ws" | "http" => (false, 80),
            "wss" | "https" => (true, 443),
            _ => return Err(usage("the scheme is one of ws, wss, http, https")),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (host, port) = split_port(authority, default_port).ok_or_else(|| usage("the port is no number"))?;
        let addresses: Vec<SocketAddr> =
            (host, port).to_socket_addrs().context(|| format!("resolving {host}"))?.collect();
        let address = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
        Ok(Self {
            tls,
            host: host.to_owned(),
            authority: authority.to_owned(),
            address: *address.ok_or_else(|| usage("the host has no address"))?,
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
        })
    }

    /// The same server with another path.
    pub(crate) fn with_path(&self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self.clone() }
    }

    /// A bare TCP address, for the comparison server.
    pub(crate) fn plain(address: SocketAddr) -> Self {
        let authority = address.to_string();
        Self { tls: false, host: address.ip().to_string(), authority, address, path: "/".to_owned() }
    }
}

fn split_port(authority: &str, default_port: u16) -> Option<(&str, u16)> {
    if let Some((host, port)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return Some((host, port.strip_prefix(':').map_or(Some(default_port), |port| port.parse().ok())?));
    }
    match authority.rsplit_once(':') {
        Some((host, port)) => Some((host, port.parse().ok()?)),
        None => Some((authority, default_port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_parsed() {
        let target = TargetUrl::parse("ws://127.0.0.1:8000/connection/websocket?x=1").unwrap();
        assert!(!target.tls);
        assert_eq!(target.authority, "127.0.0.1:8000");
        assert_eq!(target.path, "/connection/websocket?x=1");
        let target = TargetUrl::parse("wss://[::1]").unwrap();
        assert!(target.tls);
        assert_eq!((target.host.as_str(), target.address.port(), target.path.as_str()), ("::1", 443, "/"));
        for wrong in ["127.0.0.1", "ftp://127.0.0.1", "ws://127.0.0.1:port"] {
            assert!(TargetUrl::parse(wrong).is_err(), "{wrong}");
        }
    }
}
