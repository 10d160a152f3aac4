//! `[hooks]`: the HTTP endpoints of the operator's backend that the hub calls.

use std::{fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, de::Error};

use super::{
    EventsConfig,
    value::{self, Secret},
};
use crate::http_client::{HttpUrl, UrlError};

/// The header with the signatures of a call, which no hook may pass on from a client.
pub(crate) const SIGNATURE_HEADER: &str = "x-wardcast-signature";

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

/// The URL of a hook, of http or https.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookEndpoint(HttpUrl);

impl HookEndpoint {
    /// Parses a URL.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        HttpUrl::parse(text).map(Self).map_err(|error| match error {
            UrlError::Malformed => "is not a URL like http://backend:3000/centrifugo/rpc".to_owned(),
            UrlError::HasCredentials => {
                "contains a user name or password; sign the calls with hooks.secret instead".to_owned()
            }
        })
    }

    pub(crate) fn url(&self) -> &HttpUrl {
        &self.0
    }
}

/// For logs: without the query, which may contain a secret.
impl fmt::Display for HookEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Parses a URL; `""` means not set.
pub(super) fn optional_endpoint<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<HookEndpoint>, D::Error> {
    let text = value::optional_text(deserializer)?;
    text.map(|text| HookEndpoint::parse(&text).map_err(D::Error::custom)).transpose()
}
