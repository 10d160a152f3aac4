//! Requests that the hub sends to identity providers and to the operator's backend: without redirects, to addresses that are
//! allowed, with a limit on the size of responses. The caller limits the time.

mod address;
mod keep_alive;
mod url;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, StatusCode,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{ACCEPT, CONNECTION, HeaderValue},
};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;

pub(crate) use self::{
    keep_alive::KeepAliveClient,
    url::{HttpUrl, SOFTWARE, UrlError},
};

/// Maximum number of addresses of a name to which the client tries to connect.
const MAX_ADDRESSES: usize = 8;
/// For the connection to one address: the next one may answer where this one is silent.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum size of the head of a response.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Why a request has no response with a body. Errors that a setting can cause have its name.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("cannot resolve the host: {0}")]
    Resolve(io::Error),
    #[error("the host resolves to {0}, a private address; if that is right, add its network to {1}")]
    PrivateAddress(IpAddr, &'static str),
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("TLS handshake failed: {0}; {1} names the certificate authorities")]
    Tls(io::Error, &'static str),
    #[error("HTTP error: {0}")]
    Http(#[from] hyper::Error),
    #[error("the response has status {0}, but it must be 200; redirects are not followed")]
    Status(StatusCode),
    #[error("the response is longer than {0} bytes ({1})")]
    TooLarge(usize, &'static str),
    #[error("no complete response in time ({0})")]
    TimedOut(&'static str),
}

impl RequestError {
    /// Returns the error as one word, for metrics.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self::Resolve(_) => "unresolved",
            Self::PrivateAddress(..) => "private_address",
            Self::Connect(_) => "unreachable",
            Self::Tls(..) => "tls",
            Self::Http(_) => "http",
            Self::Status(_) => "status",
            Self::TooLarge(..) => "too_large",
            Self::TimedOut(_) => "timeout",
        }
    }
}

/// The settings that errors of a client name.
pub(crate) struct SettingNames {
    pub(crate) ca: &'static str,
    pub(crate) max_bytes: &'static str,
}

/// The networks that are not public to which a client may connect.
pub(crate) struct PrivateNetworks {
    pub(crate) allowed: Vec<IpNet>,
    /// The setting that says so.
    pub(crate) setting: &'static str,
}

type Connection = SendRequest<Full<Bytes>>;

/// Sends requests, each on a connection of its own.
pub(crate) struct HttpClient {
    /// `None` only if the client is for URLs of http.
    pub(crate) tls: Option<TlsConnector>,
    /// `None` to connect to any address.
    pub(crate) private_networks: Option<PrivateNetworks>,
    /// Maximum size of the body of a response.
    pub(crate) max_bytes: usize,
    pub(crate) names: SettingNames,
}

impl HttpClient {
    /// Gets a JSON document.
    pub(crate) async fn get(&self, url: &HttpUrl) -> Result<Vec<u8>, RequestError> {
        let mut request = url.request(Method::GET, Bytes::new());
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        let response = self.connect(url).await?.send_request(request).await?;
        match response.status() {
            StatusCode::OK => self.read_body(response.into_body()).await,
            status => Err(RequestError::Status(status)),
        }
    }

    /// Connects to the first address of the host that is allowed and reachable.
    async fn connect(&self, url: &HttpUrl) -> Result<Connection, RequestError> {
        let resolved = lookup_host((url.host.as_str(), url.port)).await.map_err(RequestError::Resolve)?;
        let stream = self.connect_to_any(&resolved.collect::<Vec<_>>()).await?;
        // Requests are small, and their answers are waited for.
        stream.set_nodelay(true).map_err(RequestError::Connect)?;
        if !url.is_https {
            return start_connection(stream).await;
        }
        let tls_error = |error| RequestError::Tls(error, self.names.ca);
        let tls = self.tls.as_ref().ok_or_else(|| tls_error(io::ErrorKind::Unsupported.into()))?;
        let name = ServerName::try_from(url.host.clone())
            .map_err(|_| tls_error(io::Error::other("the host is not a valid server name")))?;
        start_connection(tls.connect(name, stream).await.map_err(tls_error)?).await
    }

    /// Connects to the first of these addresses that is allowed and reachable.
    async fn connect_to_any(&self, resolved: &[SocketAddr]) -> Result<TcpStream, RequestError> {
        let networks = self.private_networks.as_ref();
        let is_allowed = |address: &&SocketAddr| {
            networks.is_none_or(|networks| address::is_allowed(address.ip(), &networks.allowed))
        };
        let mut error = match (resolved.first(), networks) {
            (Some(first), Some(networks)) => RequestError::PrivateAddress(first.ip(), networks.setting),
            _ => RequestError::Resolve(io::ErrorKind::NotFound.into()),
        };
        for address in resolved.iter().filter(is_allowed).take(MAX_ADDRESSES) {
            match timeout(ADDRESS_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(failed)) => error = RequestError::Connect(failed),
                Err(_) => error = RequestError::Connect(io::ErrorKind::TimedOut.into()),
            }
        }
        Err(error)
    }

    /// Reads the body of a response, up to the limit.
    async fn read_body(&self, mut body: Incoming) -> Result<Vec<u8>, RequestError> {
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if bytes.len() + data.len() > self.max_bytes {
                return Err(RequestError::TooLarge(self.max_bytes, self.names.max_bytes));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes)
    }
}

/// Starts HTTP on a connection. The task that moves its bytes ends when the sender is dropped.
async fn start_connection<S>(stream: S) -> Result<Connection, RequestError>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (sender, connection) =
        http1::Builder::new().max_buf_size(MAX_HEAD_BYTES).handshake(TokioIo::new(stream)).await?;
    actix_rt::spawn(async move {
        // The sender gets the error, too.
        let _ = connection.await;
    });
    Ok(sender)
}

#[cfg(test)]
mod tests {
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

    fn client(networks: Option<&[&str]>) -> HttpClient {
        let allowed = |networks: &[&str]| networks.iter().map(|network| network.parse().unwrap()).collect();
        let private_networks =
            networks.map(|networks| PrivateNetworks { allowed: allowed(networks), setting: "private_networks" });
        let names = SettingNames { ca: "ca", max_bytes: "max_bytes" };
        HttpClient { tls: None, private_networks, max_bytes: 0, names }
    }

    #[actix_rt::test]
    async fn silent_address_of_a_name_leaves_time_for_the_next_one() {
        let (silent, _queued) = silent_listener("127.0.0.1:0").await;
        let reachable = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [silent.local_addr().unwrap(), reachable.local_addr().unwrap()];
        let connected = timeout(Duration::from_secs(5), client(None).connect_to_any(&addresses)).await;
        assert_eq!(connected.expect("within the timeout of callers").unwrap().peer_addr().unwrap(), addresses[1]);
    }

    #[actix_rt::test]
    async fn only_so_many_allowed_addresses_of_a_name_are_tried() {
        let reachable = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut addresses = vec![refused; MAX_ADDRESSES - 1];
        addresses.push(reachable.local_addr().unwrap());
        for networks in [None, Some(&["127.0.0.0/8"][..])] {
            assert!(client(networks).connect_to_any(&addresses).await.is_ok());
        }
        addresses.insert(0, refused);
        for networks in [None, Some(&["127.0.0.0/8"][..])] {
            assert!(matches!(client(networks).connect_to_any(&addresses).await, Err(RequestError::Connect(_))));
        }
        let error = client(Some(&[])).connect_to_any(&addresses).await;
        assert!(matches!(error, Err(RequestError::PrivateAddress(..))));
    }
}
