//! Fetches one document over https: one GET on a connection of its own, to an address that was checked, without redirects, and
//! with a limit on the size. The caller limits the time.

use std::{fmt, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response, StatusCode, Uri,
    body::Incoming,
    client::conn::http1,
    header::{ACCEPT, CONNECTION, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rustls_pki_types::ServerName;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::address::is_allowed;
use crate::config::{KeyConfig, KeySetsConfig};

/// Maximum number of addresses of a name to which the client tries to connect.
const MAX_ADDRESSES: usize = 8;
/// For the connection to one address: the next one may answer where this one is silent.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum size of the head of a response.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// A URL that the hub may fetch: https, with a host and without credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HttpsUrl {
    host: String,
    port: u16,
    /// With the query.
    path: String,
}

impl HttpsUrl {
    /// Parses a URL.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("http://") {
            return Err("is not https: anyone on the way could replace the keys".to_owned());
        }
        let malformed = || "is not a URL like https://id.example.com/keys.json".to_owned();
        let uri: Uri = text.parse().map_err(|_| malformed())?;
        if uri.scheme_str() != Some("https") {
            return Err(malformed());
        }
        let authority = uri.authority().ok_or_else(malformed)?;
        if authority.as_str().contains('@') {
            return Err("contains a user name or password; leave it out".to_owned());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = match authority.as_str()[authority.host().len()..].strip_prefix(':') {
            None => 443,
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(malformed)?,
        };
        if host.is_empty() {
            return Err(malformed());
        }
        Ok(Self { host, port, path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned() })
    }

    /// Returns the host, and the port if it is not 443.
    fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == 443 { host } else { format!("{host}:{}", self.port) }
    }
}

/// For logs: without the query, which may contain a secret.
impl fmt::Display for HttpsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.authority(), self.path.split('?').next().unwrap_or_default())
    }
}

/// Why a document could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The name of the server cannot be resolved.
    #[error("cannot resolve the host: {0}")]
    Resolve(std::io::Error),
    /// All addresses of the server are private.
    #[error(
        "the host resolves to {0}, a private address; if that is right, add its network to private_networks of the entry in \
         auth.keys, or to auth.key_sets.private_networks"
    )]
    PrivateAddress(std::net::IpAddr),
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// The TLS handshake has failed.
    #[error(
        "TLS handshake failed: {0}; auth.key_sets.ca, or ca of the entry in auth.keys, names the certificate authorities"
    )]
    Tls(std::io::Error),
    /// The response is not HTTP, or the connection was lost.
    #[error("HTTP error: {0}")]
    Http(#[from] hyper::Error),
    /// The response is a redirect or an error.
    #[error("the response has status {0}, but it must be 200; redirects are not followed")]
    Status(StatusCode),
    /// The response is longer than the limit.
    #[error("the response is longer than {0} bytes (auth.key_sets.document_bytes)")]
    TooLarge(usize),
    /// It took too long.
    #[error("no complete response in time (auth.key_sets.timeout)")]
    TimedOut,
    /// The document cannot be used.
    #[error("the document {0}")]
    Malformed(String),
}

impl FetchError {
    /// Returns the error as one word, for `wardcast_key_fetches_total`.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Resolve(_) => "unresolved",
            Self::PrivateAddress(_) => "private_address",
            Self::Connect(_) => "unreachable",
            Self::Tls(_) => "tls",
            Self::Http(_) => "http",
            Self::Status(_) => "status",
            Self::TooLarge(_) => "too_large",
            Self::TimedOut => "timeout",
            Self::Malformed(_) => "malformed",
        }
    }
}

/// Fetches the documents of one provider.
pub(super) struct HttpsClient {
    tls: TlsConnector,
    private_networks: Vec<IpNet>,
    max_bytes: usize,
}

impl HttpsClient {
    /// Creates a client. The settings of the entry in `auth.keys` override those of `auth.key_sets`: what is allowed for one provider
    /// is not allowed for the documents of another.
    pub(super) fn new(settings: &KeySetsConfig, entry: &KeyConfig, tls: TlsConnector) -> Self {
        let private_networks = settings.private_networks_of(entry).to_vec();
        Self { tls, private_networks, max_bytes: settings.document_bytes }
    }

    /// Fetches a document.
    pub(super) async fn get(&self, url: &HttpsUrl) -> Result<Vec<u8>, FetchError> {
        let stream = self.connect(url).await?;
        let (mut sender, connection) =
            http1::Builder::new().max_buf_size(MAX_HEAD_BYTES).handshake(TokioIo::new(stream)).await?;
        let request = Request::get(&url.path)
            .header(HOST, url.authority())
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("wardcast/", env!("CARGO_PKG_VERSION")))
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|_| FetchError::Malformed("has a URL that cannot be sent".to_owned()))?;
        let exchange = async move {
            let response = sender.send_request(request).await?;
            self.read_body(response).await
        };
        // The connection only moves bytes. When it has ended, the exchange still has what it received.
        let transfer = async move {
            let _ = connection.await;
            std::future::pending::<std::convert::Infallible>().await
        };
        tokio::select! {
            result = exchange => result,
            never = transfer => match never {},
        }
    }

    /// Connects to the first address of the host that is allowed and reachable.
    async fn connect(&self, url: &HttpsUrl) -> Result<TlsStream<TcpStream>, FetchError> {
        let resolved: Vec<SocketAddr> =
            lookup_host((url.host.as_str(), url.port)).await.map_err(FetchError::Resolve)?.collect();
        let name = ServerName::try_from(url.host.clone())
            .map_err(|_| FetchError::Tls(std::io::Error::other("the host is not a valid server name")))?;
        let stream = self.connect_to_any(&resolved).await?;
        self.tls.connect(name, stream).await.map_err(FetchError::Tls)
    }

    /// Connects to the first of these addresses that is allowed and reachable.
    async fn connect_to_any(&self, resolved: &[SocketAddr]) -> Result<TcpStream, FetchError> {
        let allowed = resolved.iter().filter(|address| is_allowed(address.ip(), &self.private_networks));
        let mut error = match resolved.first() {
            Some(first) => FetchError::PrivateAddress(first.ip()),
            None => FetchError::Resolve(std::io::ErrorKind::NotFound.into()),
        };
        for address in allowed.take(MAX_ADDRESSES) {
            match timeout(ADDRESS_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(failed)) => error = FetchError::Connect(failed),
                Err(_) => error = FetchError::Connect(std::io::ErrorKind::TimedOut.into()),
            }
        }
        Err(error)
    }

    /// Reads the body of a response, up to the limit.
    async fn read_body(&self, response: Response<Incoming>) -> Result<Vec<u8>, FetchError> {
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let (mut body, mut bytes) = (response.into_body(), Vec::new());
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if bytes.len() + data.len() > self.max_bytes {
                return Err(FetchError::TooLarge(self.max_bytes));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    /// A listener that accepts nothing, and whose queue is full: the kernel leaves further connections unanswered.
    async fn silent_listener(address: &str) -> (TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(address.parse().unwrap()).unwrap();
        let (listener, mut queued) = (socket.listen(1).unwrap(), Vec::new());
        let address = listener.local_addr().unwrap();
        while let Ok(Ok(stream)) = timeout(Duration::from_millis(100), TcpStream::connect(address)).await {
            queued.push(stream);
        }
        (listener, queued)
    }

    fn client(networks: &[&str]) -> HttpsClient {
        let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
        let entry = KeyConfig { private_networks: Some(networks), ..KeyConfig::default() };
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let tls = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        HttpsClient::new(&crate::config::Config::default().auth.key_sets, &entry, Arc::new(tls).into())
    }

    #[actix_rt::test]
    async fn silent_address_of_a_name_leaves_time_for_the_next_one() {
        let (silent, _queued) = silent_listener("127.0.0.1:0").await;
        let reachable = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [silent.local_addr().unwrap(), reachable.local_addr().unwrap()];
        let connected = timeout(Duration::from_secs(5), client(&["127.0.0.0/8"]).connect_to_any(&addresses)).await;
        assert_eq!(connected.expect("within auth.key_sets.timeout").unwrap().peer_addr().unwrap(), addresses[1]);
    }

    #[actix_rt::test]
    async fn only_so_many_addresses_of_a_name_are_tried() {
        let reachable = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut addresses = vec![refused; MAX_ADDRESSES - 1];
        addresses.push(reachable.local_addr().unwrap());
        assert!(client(&["127.0.0.0/8"]).connect_to_any(&addresses).await.is_ok());
        addresses.insert(0, refused);
        assert!(matches!(client(&["127.0.0.0/8"]).connect_to_any(&addresses).await, Err(FetchError::Connect(_))));
        assert!(matches!(client(&[]).connect_to_any(&addresses).await, Err(FetchError::PrivateAddress(_))));
    }

    #[test]
    fn only_https_urls_without_credentials_are_fetched() {
        for (text, shown) in [
            ("https://id.example.com/keys.json", "https://id.example.com/keys.json"),
            ("https://id.example.com", "https://id.example.com/"),
            ("https://id.example.com:8443/a?key=secret", "https://id.example.com:8443/a"),
            ("https://[2606:4700::1111]/a", "https://[2606:4700::1111]/a"),
        ] {
            assert_eq!(HttpsUrl::parse(text).unwrap().to_string(), shown);
        }
        for wrong in [
            "",
            "id.example.com",
            "http://id.example.com/",
            "file:///etc/passwd",
            "https://",
            "https://user:pw@id.example.com/",
            "https://id.example.com:0/",
            "https://id.example.com:99999/",
            "https://id.example.com/\r\nHost: a",
            "//a/b",
            "/a",
        ] {
            assert!(HttpsUrl::parse(wrong).is_err(), "{wrong}");
        }
    }
}
