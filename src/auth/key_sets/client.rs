//! Fetches the documents of one identity provider.

use std::fmt;

use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::{
    config::{KeyConfig, KeySetsConfig},
    http_client::{HttpClient, HttpUrl, PrivateNetworks, RequestError, SettingNames, UrlError},
};

/// A URL that the hub may fetch: https, with a host and without credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HttpsUrl(HttpUrl);

impl HttpsUrl {
    /// Parses a URL.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("http://") {
            return Err("is not https: anyone on the way could replace the keys".to_owned());
        }
        match HttpUrl::parse(text) {
            Ok(url) if url.is_https => Ok(Self(url)),
            Err(UrlError::HasCredentials) => Err("contains a user name or password; leave it out".to_owned()),
            Ok(_) | Err(UrlError::Malformed) => Err("is not a URL like https://id.example.com/keys.json".to_owned()),
        }
    }
}

/// For logs: without the query, which may contain a secret.
impl fmt::Display for HttpsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a document could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The document cannot be used.
    #[error("the document {0}")]
    Malformed(String),
}

impl FetchError {
    /// Returns the error as one word, for `wardcast_key_fetches_total`.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Request(error) => error.outcome(),
            Self::Malformed(_) => "malformed",
        }
    }
}

/// Fetches the documents of one provider.
pub(super) struct HttpsClient(HttpClient);

impl HttpsClient {
    /// Creates a client. The settings of the entry in `auth.keys` override those of `auth.key_sets`: what is allowed for one provider
    /// is not allowed for the documents of another.
    pub(super) fn new(settings: &KeySetsConfig, entry: &KeyConfig, tls: TlsConnector) -> Self {
        let private_networks = PrivateNetworks {
            allowed: settings.private_networks_of(entry).to_vec(),
            setting: "private_networks of the entry in auth.keys, or to auth.key_sets.private_networks",
        };
        let names = SettingNames {
            ca: "auth.key_sets.ca, or ca of the entry in auth.keys,",
            max_bytes: "auth.key_sets.document_bytes",
        };
        let (private_networks, max_bytes) = (Some(private_networks), settings.document_bytes);
        Self(HttpClient { tls: Some(tls), private_networks, max_bytes, names })
    }

    /// Fetches a document in the time that the settings give it.
    pub(super) async fn get(&self, url: &HttpsUrl, settings: &KeySetsConfig) -> Result<String, FetchError> {
        let fetched = timeout(settings.timeout, self.0.get(&url.0)).await;
        let bytes = fetched.unwrap_or(Err(RequestError::TimedOut("auth.key_sets.timeout")))?;
        String::from_utf8(bytes).map_err(|_| FetchError::Malformed("is not UTF-8".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_urls_without_credentials_are_fetched() {
        let url = HttpsUrl::parse("https://id.example.com:8443/a?key=secret").unwrap();
        assert_eq!(url.to_string(), "https://id.example.com:8443/a");
        for (wrong, problem) in [
            ("http://id.example.com/", "is not https"),
            ("HTTP://id.example.com/", "is not a URL"),
            ("id.example.com", "is not a URL"),
            ("https://user:pw@id.example.com/", "contains a user name or password"),
        ] {
            assert!(HttpsUrl::parse(wrong).unwrap_err().starts_with(problem), "{wrong}");
        }
    }
}
