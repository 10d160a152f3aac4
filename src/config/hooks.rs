//! `[hooks]`: the HTTP endpoints of the operator's backend that the hub calls.

use std::{fmt, path::PathBuf, time::Duration};

use hyper::Uri;
use serde::{Deserialize, Deserializer, de::Error};

use super::{
    EventsConfig,
    value::{self, Secret},
};

/// `[hooks]`: what applies to each hook, and the hooks.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct HooksConfig {
    pub waiting: usize,
    pub response_bytes: usize,
    pub failures: u32,
    #[serde(with = "value::duration")]
    pub pause: Duration,
    #[serde(deserialize_with = "value::optional_path")]
    pub ca: Option<PathBuf>,
    pub secret: Secret,
    pub previous_secret: Secret,
    pub connect_in_handshake: bool,
    pub send_queue: usize,
    pub connect: HookConfig,
    pub refresh: HookConfig,
    pub subscribe: HookConfig,
    pub sub_refresh: HookConfig,
    pub publish: HookConfig,
    pub rpc: HookConfig,
    pub send: HookConfig,
    pub events: EventsConfig,
}

/// One hook.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct HookConfig {
    #[serde(deserialize_with = "optional_endpoint")]
    pub endpoint: Option<HookEndpoint>,
    #[serde(with = "value::duration")]
    pub timeout: Duration,
    pub concurrency: usize,
    pub headers: Vec<String>,
}

impl HooksConfig {
    /// Returns the hooks with their names.
    pub fn named(&self) -> [(&'static str, &HookConfig); 7] {
        [
            ("connect", &self.connect),
            ("refresh", &self.refresh),
            ("subscribe", &self.subscribe),
            ("sub_refresh", &self.sub_refresh),
            ("publish", &self.publish),
            ("rpc", &self.rpc),
            ("send", &self.send),
        ]
    }

    /// Returns the lowercase names of the headers that some hook gets.
    pub fn forwarded_headers(&self) -> Vec<String> {
        let hooks = self.named().into_iter().filter(|(_, hook)| hook.endpoint.is_some());
        let mut names: Vec<String> =
            hooks.flat_map(|(_, hook)| hook.headers.iter().map(|name| name.to_ascii_lowercase())).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// The URL of a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookEndpoint {
    /// Whether it begins with `https`.
    pub is_https: bool,
    /// The host, an IPv6 address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The path with the query.
    pub path: String,
}

impl HookEndpoint {
    /// Parses a URL of http or https.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let malformed = || "is not a URL like http://backend:3000/centrifugo/rpc".to_owned();
        let uri: Uri = text.parse().map_err(|_| malformed())?;
        let is_https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(malformed()),
        };
        let authority = uri.authority().ok_or_else(malformed)?;
        if authority.as_str().contains('@') {
            return Err("contains a user name or password; sign the calls with hooks.secret instead".to_owned());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = match authority.as_str()[authority.host().len()..].strip_prefix(':') {
            None if is_https => 443,
            None => 80,
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(malformed)?,
        };
        if host.is_empty() {
            return Err(malformed());
        }
        Ok(Self { is_https, host, port, path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned() })
    }

    /// Returns the value of the header `Host`: without the port if it is that of the scheme.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.is_https, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

/// For logs: without the query, which may contain a secret.
impl fmt::Display for HookEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path.split('?').next().unwrap_or_default())
    }
}

/// Parses a URL; `""` means not set.
pub(super) fn optional_endpoint<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<HookEndpoint>, D::Error> {
    let text = value::optional_text(deserializer)?;
    text.map(|text| HookEndpoint::parse(&text).map_err(D::Error::custom)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_http_or_https_urls_without_credentials() {
        for (text, authority, shown) in [
            ("http://backend:3000/rpc", "backend:3000", "http://backend:3000/rpc"),
            ("http://backend", "backend", "http://backend/"),
            ("https://a.example.com/x?key=secret", "a.example.com", "https://a.example.com/x"),
            ("https://a.example.com:80/x", "a.example.com:80", "https://a.example.com:80/x"),
            ("http://[::1]:3000/x", "[::1]:3000", "http://[::1]:3000/x"),
        ] {
            let endpoint = HookEndpoint::parse(text).unwrap();
            assert_eq!((endpoint.authority().as_str(), endpoint.to_string().as_str()), (authority, shown), "{text}");
        }
        for wrong in [
            "backend:3000",
            "/rpc",
            "grpc://backend:3000",
            "http://",
            "http://user:pw@backend/",
            "http://backend:0/",
            "http://backend:99999/",
            "http://backend/\r\nX: y",
        ] {
            assert!(HookEndpoint::parse(wrong).is_err(), "{wrong}");
        }
    }
}
