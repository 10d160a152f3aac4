//! Who asks: the address, scheme and host of a request. Forwarded headers are anybody's to write, so they count only when
//! `server.trusted_proxies` sends them; `connection_info()` of actix-web believes them of everybody.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use actix_http::RequestHead;
use actix_web::http::header::{HOST, HeaderMap, HeaderName};

use crate::config::ServerConfig;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Where the request comes from: the peer of its connection, or whom trusted proxies name.
pub fn client_address(head: &RequestHead, server: &ServerConfig) -> IpAddr {
    let peer = peer_address(head);
    if server.is_trusted_proxy(peer) { forwarded_address(&head.headers, server).unwrap_or(peer) } else { peer }
}

/// `http` or `https`: what the client speaks, to us or to a proxy in front of us.
pub fn client_scheme(head: &RequestHead, server: &ServerConfig) -> &'static str {
    let told =
        server.is_trusted_proxy(peer_address(head)).then(|| single_value(&head.headers, &FORWARDED_PROTO)).flatten();
    match told {
        Some(scheme) if scheme.eq_ignore_ascii_case("https") => "https",
        Some(scheme) if scheme.eq_ignore_ascii_case("http") => "http",
        _ if server.behind_tls || server.tls.cert.is_some() => "https",
        _ => "http",
    }
}

/// The one `Host`.
pub fn request_host(head: &RequestHead) -> Option<&str> {
    single_value(&head.headers, &HOST)
}

fn peer_address(head: &RequestHead) -> IpAddr {
    head.peer_addr.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip().to_canonical())
}

/// Each proxy appends whom it heard it from, so the list is read from its end: the first address there that is no trusted
/// proxy was seen by one that is. What stands before it may be made up. `None` when that address cannot be read.
fn forwarded_address(headers: &HeaderMap, server: &ServerConfig) -> Option<IpAddr> {
    let values: Option<Vec<&str>> = headers.get_all(&FORWARDED_FOR).map(|value| value.to_str().ok()).collect();
    let values = values?;
    let mut entries = values.iter().rev().flat_map(|value| value.rsplit(',')).map(|entry| parse_address(entry.trim()));
    let mut farthest = None;
    loop {
        match entries.next() {
            // All of them are trusted: the farthest is who asks.
            None => return farthest,
            Some(None) => return None,
            Some(Some(address)) if !server.is_trusted_proxy(address) => return Some(address),
            trusted => farthest = trusted.flatten(),
        }
    }
}

/// An address, also with a port, as some proxies write it.
fn parse_address(entry: &str) -> Option<IpAddr> {
    let bare = entry.strip_prefix('[').and_then(|entry| entry.strip_suffix(']')).unwrap_or(entry);
    let with_port = || entry.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.parse::<IpAddr>().ok().or_else(with_port).map(|address| address.to_canonical())
}

fn single_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name);
    let first = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(first.trim())
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;
    use crate::config::Config;

    fn server() -> ServerConfig {
        let mut server = Config::default().server;
        server.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        server
    }

    fn asks(peer: &str, headers: &[(&'static str, &str)]) -> (String, &'static str) {
        let request = TestRequest::default().peer_addr(peer.parse().unwrap());
        let request = headers.iter().fold(request, |request, header| request.append_header(*header)).to_http_request();
        (client_address(request.head(), &server()).to_string(), client_scheme(request.head(), &server()))
    }

    fn address_of(peer: &str, forwarded: &[&str]) -> String {
        let headers: Vec<_> = forwarded.iter().map(|value| ("X-Forwarded-For", *value)).collect();
        asks(peer, &headers).0
    }

    #[test]
    fn untrusted_peer_cannot_forward_an_address_or_scheme() {
        let headers =
            [("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-Proto", "https"), ("Forwarded", "for=192.0.2.1")];
        assert_eq!(asks("203.0.113.9:1", &headers), ("203.0.113.9".to_owned(), "http"));
    }

    #[test]
    fn client_address_is_the_nearest_untrusted_hop() {
        assert_eq!(address_of("10.0.0.1:1", &["192.0.2.1"]), "192.0.2.1");
        assert_eq!(address_of("[::ffff:10.0.0.1]:1", &["192.0.2.1"]), "192.0.2.1");
        assert_eq!(address_of("[fd00::1]:1", &["2001:db8::1"]), "2001:db8::1");
        assert_eq!(address_of("10.0.0.1:1", &["1.1.1.1, 192.0.2.1, 10.0.0.2"]), "192.0.2.1", "1.1.1.1 is made up");
        assert_eq!(address_of("10.0.0.1:1", &["1.1.1.1", "192.0.2.1", "10.0.0.2,10.0.0.3"]), "192.0.2.1");
        assert_eq!(address_of("10.0.0.1:1", &["nonsense, 192.0.2.1"]), "192.0.2.1", "so is nonsense");
        assert_eq!(address_of("10.0.0.1:1", &["192.0.2.1:4711"]), "192.0.2.1");
        assert_eq!(address_of("10.0.0.1:1", &["[2001:db8::1]:4711"]), "2001:db8::1");
        assert_eq!(address_of("10.0.0.1:1", &["::ffff:192.0.2.1"]), "192.0.2.1");
        assert_eq!(address_of("10.0.0.1:1", &["10.0.0.9, 10.0.0.2"]), "10.0.0.9", "a trusted one asks itself");
    }

    #[test]
    fn unreadable_forwarded_address_falls_back_to_the_proxy() {
        for value in ["", "nonsense", "192.0.2.1, nonsense", "192.0.2.1,", "192.0.2.256", "unknown", "\u{e9}"] {
            assert_eq!(address_of("10.0.0.1:1", &[value]), "10.0.0.1", "{value:?}");
        }
        assert_eq!(address_of("10.0.0.1:1", &[]), "10.0.0.1");
    }

    #[test]
    fn scheme_is_forwarded_once_or_else_configured() {
        let proto = |values: &[&str]| {
            let headers: Vec<_> = values.iter().map(|value| ("X-Forwarded-Proto", *value)).collect();
            asks("10.0.0.1:1", &headers).1
        };
        assert_eq!([proto(&["https"]), proto(&["HTTPS"]), proto(&["http"])], ["https", "https", "http"]);
        for values in [&["https, http"][..], &["https", "https"], &["gopher"], &[""], &[]] {
            assert_eq!(proto(values), "http", "{values:?}");
        }
        let request = TestRequest::default().to_http_request();
        let behind = ServerConfig { behind_tls: true, ..server() };
        assert_eq!(client_scheme(request.head(), &behind), "https");
    }
}
