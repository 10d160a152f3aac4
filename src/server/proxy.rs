//! The PROXY protocol, version 2: a balancer that passes bytes on tells in front of them whose they are. Believed from
//! `server.trusted_proxies` only, who then must speak it; nobody else may choose whom the limits count them as.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
    time::timeout,
};

use super::listener::REQUEST_HEAD_TIMEOUT;
use crate::{config, metrics::Metrics, transport::AcceptedConnection};

/// Begins every header: no HTTP request and no TLS hello does.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family, length.
const FIXED_BYTES: usize = 16;
/// What comes behind that: two addresses and what the balancer adds (the specification asks for no more than 536 in all).
const MAX_VARIABLE_BYTES: usize = 1024;

/// Why a connection that must begin with a header is closed.
#[derive(Debug, thiserror::Error)]
pub enum ProxyHeaderError {
    /// It begins otherwise: version 1, HTTP, TLS.
    #[error("begins without a PROXY header of version 2")]
    Missing,
    /// Bytes that are more than anybody has to say.
    #[error("a PROXY header of {0} bytes")]
    TooLong(usize),
    /// Not of a TCP connection, or shorter than its addresses.
    #[error("a PROXY header of another command, family or length")]
    Malformed,
    /// It ended, or the connection did.
    #[error("a PROXY header that did not come: {0}")]
    Io(#[from] std::io::Error),
    /// It was too slow.
    #[error("a PROXY header that did not come in time")]
    Timeout,
}

/// Takes a connection in: finds out whose it is. `None` closes it.
pub(super) async fn accept(
    mut stream: TcpStream,
    server: &config::ServerConfig,
    metrics: &Metrics,
) -> Option<AcceptedConnection> {
    // An error here is a client that has gone already.
    let peer = stream.peer_addr().ok()?;
    let _ = stream.set_nodelay(true);
    if !server.proxy_protocol || !server.is_trusted_proxy(peer.ip()) {
        return Some(AcceptedConnection::new(stream, peer));
    }
    match timeout(REQUEST_HEAD_TIMEOUT, read_header(&mut stream)).await.unwrap_or(Err(ProxyHeaderError::Timeout)) {
        Ok(told) => Some(AcceptedConnection::new(stream, told.unwrap_or(peer))),
        Err(bad) => {
            metrics.proxy_headers_refused.inc();
            log::debug!("the proxy {peer} sent {bad}");
            None
        }
    }
}

/// Reads exactly the header: what follows is TLS or HTTP. `None` when it tells of nobody else than the proxy itself. For
/// the listener, and for fuzzing; who is trusted and how long it may take is judged before.
///
/// # Errors
/// [`ProxyHeaderError`], but for `Timeout`.
pub async fn read_header(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    let mut fixed = [0; FIXED_BYTES];
    // The signature by itself: what speaks plainly is closed at once and not when it has sent sixteen bytes.
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

/// Whose connection it is by the words of a header. The inner `None` is the proxy's own: a health check (LOCAL), or somebody
/// without an address (AF_UNSPEC).
fn source_address(command: u8, family: u8, rest: &[u8]) -> Option<Option<SocketAddr>> {
    match (command, family) {
        (0x20, _) | (0x21, 0x00) => Some(None),
        // TCP over IPv4: source, destination, source's port, destination's port.
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

/// The source's port, which stands at `at` before the destination's; both must be there.
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
        for (header, told) in [
            (header(0x21, 0x11, &V4), Some("192.0.2.7:12345")),
            (header(0x21, 0x11, &extended), Some("192.0.2.7:12345")),
            (header(0x21, 0x21, &v6), Some("[::1]:80")),
            (header(0x20, 0x11, &V4), None),
            (header(0x20, 0x00, &[]), None),
            (header(0x21, 0x00, &[1, 2, 3]), None),
        ] {
            let (read, left) = read_all(&[&header[..], b"GET / HTTP/1.1\r\n"].concat()).await;
            assert_eq!((read.unwrap(), left), (told.map(|told| told.parse().unwrap()), 16), "{header:?}");
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
