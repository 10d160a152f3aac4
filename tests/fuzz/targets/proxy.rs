//! PROXY headers: exactly the header is read, and it tells whose the connection is or nothing.

use std::{
    net::{IpAddr, SocketAddr},
    pin::pin,
    task::{Context, Poll, Waker},
};

use wardcast::server::proxy::{self, ProxyHeaderError};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED: usize = 16;
/// The longest rest that is read.
const REST: usize = 1024;

/// What a trusted proxy sends first: as it is, and once more with a signature in front.
pub fn proxy(data: &[u8]) {
    judged(data);
    judged(&[SIGNATURE, data].concat());
    told_addresses_come_back(data);
}

fn judged(bytes: &[u8]) {
    let (told, left) = read(bytes);
    let taken = bytes.len() - left;
    assert!(taken <= FIXED + REST, "{taken} bytes were taken");
    let Ok(told) = told else { return };
    assert!(bytes.starts_with(SIGNATURE), "no signature");
    assert!(told.is_none_or(|told| told.ip() == told.ip().to_canonical()), "two spellings of one address: {told:?}");
    let [command, family] = [bytes[12], bytes[13]];
    assert_eq!(taken, FIXED + usize::from(u16::from_be_bytes([bytes[14], bytes[15]])), "what follows is not ours");
    match (command, family) {
        (0x20, _) | (0x21, 0) => assert_eq!(told, None),
        (0x21, 0x11) => assert!(told.is_some_and(|told| told.is_ipv4())),
        (0x21, 0x21) => assert!(told.is_some()),
        other => panic!("{other:?} is no TCP connection"),
    }
}

/// Reads what is all there: it never waits, or it waits for more.
fn read(mut bytes: &[u8]) -> (Result<Option<SocketAddr>, ProxyHeaderError>, usize) {
    let read = pin!(proxy::read_header(&mut bytes)).poll(&mut Context::from_waker(Waker::noop()));
    let Poll::Ready(told) = read else { panic!("it waits, and there is no more") };
    (told, bytes.len())
}

/// An address of these bytes, as a good proxy tells it.
fn told_addresses_come_back(data: &[u8]) {
    let Some((port, more)) = data.split_first_chunk::<2>() else { return };
    let v4 = more.first_chunk::<4>().map(|octets| (0x11, IpAddr::from(*octets), 4));
    let v6 = more.first_chunk::<16>().map(|octets| (0x21, IpAddr::from(*octets), 16));
    for (family, address, length) in [v4, v6].into_iter().flatten() {
        let destination = [0xaa; 16];
        let rest = [&more[..length], &destination[..length], port, &[1, 187], &more[length..]].concat();
        let length = u16::try_from(rest.len()).unwrap_or(u16::MAX);
        let header = [SIGNATURE, &[0x21, family], &length.to_be_bytes(), &rest, b"GET / HTTP/1.1"].concat();
        let (told, left) = read(&header);
        if usize::from(length) <= REST {
            let expected = SocketAddr::new(address.to_canonical(), u16::from_be_bytes(*port));
            assert_eq!((told.ok().flatten(), left), (Some(expected), b"GET / HTTP/1.1".len()));
        } else {
            assert!(told.is_err(), "{length} bytes");
        }
    }
}
