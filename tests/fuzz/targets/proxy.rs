//! PROXY headers: the hub reads exactly the header, and takes from it the client address or none.

use std::{
    net::{IpAddr, SocketAddr},
    pin::pin,
    task::{Context, Poll, Waker},
};

use wardcast::server::proxy::{self, ProxyHeaderError};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED_BYTES: usize = 16;
/// The maximum length of the rest. A longer header is refused.
const MAX_REST_BYTES: usize = 1024;

/// The first bytes from a trusted proxy; they are read unchanged, and once more behind a signature.
pub fn proxy(data: &[u8]) {
    check_header(data);
    check_header(&[SIGNATURE, data].concat());
    check_addresses(data);
}

fn check_header(bytes: &[u8]) {
    let (address, left) = read(bytes);
    let consumed = bytes.len() - left;
    assert!(consumed <= FIXED_BYTES + MAX_REST_BYTES, "{consumed} bytes were consumed");
    let Ok(address) = address else { return };
    assert!(bytes.starts_with(SIGNATURE), "no signature");
    assert!(
        address.is_none_or(|address| address.ip() == address.ip().to_canonical()),
        "two spellings of one address: {address:?}"
    );
    let [command, family] = [bytes[12], bytes[13]];
    assert_eq!(
        consumed,
        FIXED_BYTES + usize::from(u16::from_be_bytes([bytes[14], bytes[15]])),
        "the reader must stop at the end of the header"
    );
    match (command, family) {
        (0x20, _) | (0x21, 0) => assert_eq!(address, None),
        (0x21, 0x11) => assert!(address.is_some_and(|address| address.is_ipv4())),
        (0x21, 0x21) => assert!(address.is_some()),
        other => panic!("{other:?} is not a TCP connection"),
    }
}

/// Reads bytes that are all available; also returns how many are left. The reader must not wait.
fn read(mut bytes: &[u8]) -> (Result<Option<SocketAddr>, ProxyHeaderError>, usize) {
    let read = pin!(proxy::read_header(&mut bytes)).poll(&mut Context::from_waker(Waker::noop()));
    let Poll::Ready(address) = read else { panic!("it waits for more than there is") };
    (address, bytes.len())
}

/// Checks that an address made of these bytes is read back from a valid header.
fn check_addresses(data: &[u8]) {
    let Some((port, more)) = data.split_first_chunk::<2>() else { return };
    let v4 = more.first_chunk::<4>().map(|octets| (0x11, IpAddr::from(*octets), 4));
    let v6 = more.first_chunk::<16>().map(|octets| (0x21, IpAddr::from(*octets), 16));
    for (family, address, length) in [v4, v6].into_iter().flatten() {
        let destination = [0xaa; 16];
        let rest = [&more[..length], &destination[..length], port, &[1, 187], &more[length..]].concat();
        let length = u16::try_from(rest.len()).unwrap_or(u16::MAX);
        let header = [SIGNATURE, &[0x21, family], &length.to_be_bytes(), &rest, b"GET / HTTP/1.1"].concat();
        let (read, left) = read(&header);
        if usize::from(length) <= MAX_REST_BYTES {
            let expected = SocketAddr::new(address.to_canonical(), u16::from_be_bytes(*port));
            assert_eq!((read.ok().flatten(), left), (Some(expected), b"GET / HTTP/1.1".len()));
        } else {
            assert!(read.is_err(), "{length} bytes");
        }
    }
}
