//! The PROXY protocol, version 2: a load balancer that forwards TCP connections sends the client's address in a header
//! in front of their bytes. With `server.proxy_protocol`, connections from `server.trusted_proxies` must begin with
//! this header. It is never read from other peers, which could otherwise choose the address that their limits apply to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

use crate::{
    address::UNKNOWN_ADDRESS,
    config,
    http::connection::REQUEST_HEAD_TIMEOUT,
    metrics::Metrics,
    transport::{AcceptedConnection, ClientStream},
};

/// The start of every header. No HTTP request and no TLS hello starts with it.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The header of a connection that the proxy makes for itself, like a health check: version 2, command LOCAL, no addresses.
pub(crate) const LOCAL_HEADER: [u8; FIXED_BYTES] = *b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
/// Length of signature, version and command, family, and length field.
const FIXED_BYTES: usize = 16;
/// Maximum length of the rest: two addresses and extensions. The specification asks for at most 536
/// bytes in total.
const MAX_VARIABLE_BYTES: usize = 1024;

/// Why a header is refused, and its connection closed.
#[derive(Debug, thiserror::Error)]
pub enum ProxyHeaderError {
    /// The connection begins with something else: version 1, HTTP or TLS.
    #[error("the connection does not begin with a PROXY header of version 2")]
    Missing,
    /// The header is longer than any real one.
    #[error("the PROXY header has {0} bytes after its fixed part; the maximum is {MAX_VARIABLE_BYTES}")]
    TooLong(usize),
    /// The header is not for a TCP connection, or too short for its addresses.
    #[error("the PROXY header has an unsupported command, family or length")]
    Malformed,
    /// The connection failed or ended within the header.
    #[error("cannot read the PROXY header: {0}")]
    Io(#[from] std::io::Error),
    /// The header did not arrive in time.
    #[error("the PROXY header did not arrive within {} s", REQUEST_HEAD_TIMEOUT.as_secs())]
    Timeout,
}

/// Accepts a connection: finds its client address, from the PROXY header if there must be one. `None` closes the
/// connection.
pub(super) async fn accept(
    stream: impl Into<ClientStream>,
    may_have_header: bool,
    server: &config::ServerConfig,
    metrics: &Metrics,
) -> Option<AcceptedConnection> {
    let mut stream = stream.into();
    let peer = match &stream {
        ClientStream::Tcp(tcp) => {
            let _ = tcp.set_nodelay(true);
            // Fails only when the client has already disconnected.
            Some(tcp.peer_addr().ok()?)
        }
        ClientStream::Unix(_) => None,
    };
    let address = peer.map_or(UNKNOWN_ADDRESS, |peer| peer.ip());
    if !may_have_header || !server.proxy_protocol || !server.is_trusted_proxy(address) {
        return Some(AcceptedConnection::new(stream, peer));
    }
    match timeout(REQUEST_HEAD_TIMEOUT, read_header(&mut stream)).await.unwrap_or(Err(ProxyHeaderError::Timeout)) {
        Ok(source) => Some(AcceptedConnection::new(stream, source.or(peer))),
        Err(error) => {
            metrics.proxy_headers_refused.inc();
            log::debug!("refused connection of a trusted proxy peer={address} error={:?}", error.to_string());
            None
        }
    }
}

/// Reads exactly the header; the bytes after it are TLS or HTTP. Returns the source address of the client, or `None` if
/// the connection is the proxy's own. Does not check whether the peer is trusted, and has no timeout. Public for
/// fuzzing.
///
/// # Errors
/// [`ProxyHeaderError`], except `Timeout`.
pub async fn read_header(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    let mut fixed = [0; FIXED_BYTES];
    // The signature first: a connection without a header is closed after 12 bytes instead of waiting for 16.
    stream.read_exact(&mut fixed[..SIGNATURE.len()]).await?;
    if !fixed.starts_with(&SIGNATURE) {
        return Err(ProxyHeaderError::Missing);
    }
    stream.read_exact(&mut fixed[SIGNATURE.len()..]).await?;
    let [.., command, family, high, low] = fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_VARIABLE_BYTES {
        return Err(ProxyHeaderError::TooLong(length));
    }
    let mut rest = [0; MAX_VARIABLE_BYTES];
    stream.read_exact(&mut rest[..length]).await?;
    source_address(command, family, &rest[..length]).ok_or(ProxyHeaderError::Malformed)
}

/// Returns the source address in a header. The inner `None` is a connection of the proxy itself: a health check
/// (LOCAL), or one without an address (AF_UNSPEC).
fn source_address(command: u8, family: u8, rest: &[u8]) -> Option<Option<SocketAddr>> {
    match (command, family) {
        (0x20, _) | (0x21, 0x00) => Some(None),
        // TCP over IPv4: source address, destination address, source port, destination port.
        (0x21, 0x11) => {
            let address = Ipv4Addr::from(*rest.first_chunk::<4>()?);
            Some(Some(SocketAddr::new(IpAddr::V4(address), source_port(rest, 8)?)))
        }
        (0x21, 0x21) => {
            let address = Ipv6Addr::from(*rest.first_chunk::<16>()?);
            Some(Some(SocketAddr::new(IpAddr::V6(address).to_canonical(), source_port(rest, 32)?)))
        }
        _ => None,
    }
}

/// Returns the source port at offset `at`. The destination port must follow it.
fn source_port(rest: &[u8], at: usize) -> Option<u16> {
    let ports = rest.get(at..)?.first_chunk::<4>()?;
    Some(u16::from_be_bytes([ports[0], ports[1]]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0x01, 0xbb];

    async fn read_all(mut bytes: &[u8]) -> (Result<Option<SocketAddr>, ProxyHeaderError>, usize) {
        let read = read_header(&mut bytes).await;
        (read, bytes.len())
    }

    #[actix_rt::test]
    async fn exactly_the_header_is_read_and_yields_the_source_address() {
        let v6 = [&Ipv6Addr::LOCALHOST.octets()[..], &Ipv6Addr::UNSPECIFIED.octets(), &[0, 80, 1, 187]].concat();
        let extended = [&V4[..], &[4, 0, 3, 1, 2, 3]].concat();
        for (header, source) in [
            (header(0x21, 0x11, &V4), Some("192.0.2.7:12345")),
            (header(0x21, 0x11, &extended), Some("192.0.2.7:12345")),
            (header(0x21, 0x21, &v6), Some("[::1]:80")),
            (header(0x20, 0x11, &V4), None),
            (header(0x20, 0x00, &[]), None),
            (header(0x21, 0x00, &[1, 2, 3]), None),
        ] {
            let (read, left) = read_all(&[&header[..], b"GET / HTTP/1.1\r\n"].concat()).await;
            assert_eq!((read.unwrap(), left), (source.map(|source| source.parse().unwrap()), 16), "{header:?}");
        }
    }

    #[actix_rt::test]
    async fn anything_but_a_version_2_tcp_header_is_refused() {
        for bytes in [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 443\r\n".to_vec(),
            header(0x11, 0x11, &V4),
            header(0x22, 0x11, &V4),
            header(0x21, 0x12, &V4),
            header(0x21, 0x31, &[0; 216]),
            header(0x21, 0x11, &V4[..11]),
            header(0x21, 0x21, &V4),
            header(0x21, 0x11, &[0; 1025]),
            header(0x21, 0x11, &V4)[..20].to_vec(),
        ] {
            assert!(read_all(&bytes).await.0.is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_nor_read_past_the_header(
            command in 0x1f_u8..0x23, family: u8, rest in proptest::collection::vec(any::<u8>(), 0..1200),
        ) {
            let bytes = header(command, family, &rest);
            let (read, left) = futures_util::FutureExt::now_or_never(read_all(&bytes)).unwrap();
            prop_assert!(read.is_err() || left == 0);
        }
    }
}
