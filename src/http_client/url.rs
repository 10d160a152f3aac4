//! The URLs to which the hub sends requests.

use std::fmt;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Uri,
    header::{HOST, HeaderValue, USER_AGENT},
    http::uri::PathAndQuery,
};

/// How the hub and its command line name themselves in requests.
pub(crate) const SOFTWARE: &str = concat!("wardcast/", env!("CARGO_PKG_VERSION"));

/// A URL of http or https, with a host and without credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpUrl {
    pub(crate) is_https: bool,
    /// An IPv6 address is without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// The host, and the port if it is not that of the scheme.
    authority: HeaderValue,
    /// The path with the query.
    target: PathAndQuery,
}

/// Why a text is not such a URL.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum UrlError {
    /// It has another form.
    Malformed,
    /// It contains a user name or password.
    HasCredentials,
}

impl HttpUrl {
    pub(crate) fn parse(text: &str) -> Result<Self, UrlError> {
        let uri: Uri = text.parse().map_err(|_| UrlError::Malformed)?;
        let (is_https, standard_port) = match uri.scheme_str() {
            Some("https") => (true, 443),
            Some("http") => (false, 80),
            _ => return Err(UrlError::Malformed),
        };
        let authority = uri.authority().ok_or(UrlError::Malformed)?.as_str();
        if authority.contains('@') {
            return Err(UrlError::HasCredentials);
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(UrlError::Malformed)?;
        let port = match authority[host.len()..].strip_prefix(':') {
            None => standard_port,
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(UrlError::Malformed)?,
        };
        let shown_authority = if port == standard_port { host.to_owned() } else { format!("{host}:{port}") };
        Ok(Self {
            is_https,
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port,
            authority: HeaderValue::try_from(shown_authority).map_err(|_| UrlError::Malformed)?,
            target: uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")),
        })
    }

    /// Creates a request for the URL.
    pub(super) fn request(&self, method: Method, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.target.clone().into();
        request.headers_mut().insert(HOST, self.authority.clone());
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(SOFTWARE));
        request
    }
}

/// For logs: without the query, which may contain a secret.
impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority.to_str().unwrap_or_default(), self.target.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_http_or_https_without_credentials() {
        for (text, host, shown) in [
            ("http://backend:3000/rpc", "backend:3000", "http://backend:3000/rpc"),
            ("http://backend", "backend", "http://backend/"),
            ("http://backend?key=secret", "backend", "http://backend/"),
            ("https://a.example.com/x?key=secret", "a.example.com", "https://a.example.com/x"),
            ("https://a.example.com:443/x", "a.example.com", "https://a.example.com/x"),
            ("https://a.example.com:80/x", "a.example.com:80", "https://a.example.com:80/x"),
            ("http://[::1]:3000/x", "[::1]:3000", "http://[::1]:3000/x"),
            ("https://[2606:4700::1111]/a", "[2606:4700::1111]", "https://[2606:4700::1111]/a"),
        ] {
            let url = HttpUrl::parse(text).unwrap();
            assert_eq!(
                (url.request(Method::GET, Bytes::new()).headers()[HOST].to_str().unwrap(), url.to_string().as_str()),
                (host, shown),
                "{text}"
            );
        }
        let query = HttpUrl::parse("http://backend?key=a").unwrap().request(Method::GET, Bytes::new());
        assert_eq!(query.uri().to_string(), "/?key=a");
        for (wrong, error) in [
            ("", UrlError::Malformed),
            ("backend:3000", UrlError::Malformed),
            ("id.example.com", UrlError::Malformed),
            ("/rpc", UrlError::Malformed),
            ("//a/b", UrlError::Malformed),
            ("grpc://backend:3000", UrlError::Malformed),
            ("file:///etc/passwd", UrlError::Malformed),
            ("http://", UrlError::Malformed),
            ("https://", UrlError::Malformed),
            ("http://:80/", UrlError::Malformed),
            ("http://user:pw@backend/", UrlError::HasCredentials),
            ("http://backend:0/", UrlError::Malformed),
            ("http://backend:99999/", UrlError::Malformed),
            ("http://backend/\r\nX: y", UrlError::Malformed),
        ] {
            assert_eq!(HttpUrl::parse(wrong), Err(error), "{wrong}");
        }
    }
}
