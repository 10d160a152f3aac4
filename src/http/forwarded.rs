//! The address, scheme and host of a request, as seen by its client. Any client can send forwarded headers, so they are
//! used only when the peer is one of `server.trusted_proxies`; actix-web's `connection_info()` uses them for every
//! peer.

use std::net::{IpAddr, SocketAddr};

use actix_http::RequestHead;
use actix_web::http::header::{HOST, HeaderMap, HeaderName};

use super::ListenerRole;
use crate::{address::UNKNOWN_ADDRESS, config::ServerConfig};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Returns the address of the client: the peer of the connection, or the address that trusted proxies forward.
pub fn client_address(head: &RequestHead, server: &ServerConfig) -> IpAddr {
    let forwarded = comes_from_trusted_proxy(head, server).then(|| forwarded_address(&head.headers, server)).flatten();
    forwarded.unwrap_or_else(|| peer_address(head))
}

/// Returns whether the peer of the connection is one of `server.trusted_proxies`.
pub(super) fn comes_from_trusted_proxy(head: &RequestHead, server: &ServerConfig) -> bool {
    server.is_trusted_proxy(peer_address(head))
}

/// Returns the scheme that the client uses, `http` or `https`, to this server or to a proxy in front of it. Some proxies
/// forward the scheme of the WebSocket's URL.
pub fn client_scheme(head: &RequestHead, server: &ServerConfig) -> &'static str {
    scheme_of(head, server, server.behind_tls || server.tls.cert.is_some())
}

/// Returns the scheme that the client of a listener of this role uses, as [`client_scheme`] does.
pub fn client_scheme_at(role: ListenerRole, head: &RequestHead, server: &ServerConfig) -> &'static str {
    match role {
        ListenerRole::Internal => scheme_of(head, server, server.internal_tls.cert.is_some()),
        ListenerRole::Sole | ListenerRole::Public => client_scheme(head, server),
    }
}

fn scheme_of(head: &RequestHead, server: &ServerConfig, has_tls: bool) -> &'static str {
    let forwarded =
        comes_from_trusted_proxy(head, server).then(|| single_value(&head.headers, &FORWARDED_PROTO)).flatten();
    match forwarded.map(str::to_ascii_lowercase).as_deref() {
        Some("https" | "wss") => "https",
        Some("http" | "ws") => "http",
        _ if has_tls => "https",
        _ => "http",
    }
}

/// Returns the value of `Host`, if there is exactly one.
pub fn request_host(head: &RequestHead) -> Option<&str> {
    single_value(&head.headers, &HOST)
}

fn peer_address(head: &RequestHead) -> IpAddr {
    head.peer_addr.map_or(UNKNOWN_ADDRESS, |peer| peer.ip().to_canonical())
}

/// Returns the client's address from `X-Forwarded-For`. Each proxy appends the address of its peer, so the list is read
/// from its end: the first address that is not a trusted proxy was appended by a trusted one. Everything before it may
/// be forged. `None` if that address cannot be parsed.
fn forwarded_address(headers: &HeaderMap, server: &ServerConfig) -> Option<IpAddr> {
    let values: Option<Vec<&str>> = headers.get_all(&FORWARDED_FOR).map(|value| value.to_str().ok()).collect();
    let values = values?;
    let mut entries = values.iter().rev().flat_map(|value| value.rsplit(',')).map(|entry| parse_address(entry.trim()));
    let mut farthest = None;
    loop {
        match entries.next() {
            // All are trusted proxies: the farthest one is the client.
            None => return farthest,
            Some(None) => return None,
            Some(Some(address)) if !server.is_trusted_proxy(address) => return Some(address),
            trusted => farthest = trusted.flatten(),
        }
    }
}

/// Parses an address, with or without a port: some proxies append one. nginx names a peer of a Unix socket `unix:`.
fn parse_address(entry: &str) -> Option<IpAddr> {
    if entry == "unix:" {
        return Some(UNKNOWN_ADDRESS);
    }
    let bare = entry.strip_prefix('[').and_then(|entry| entry.strip_suffix(']')).unwrap_or(entry);
    let with_port = || entry.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.parse::<IpAddr>().ok().or_else(with_port).map(|address| address.to_canonical())
}

/// Returns the value of a header that is sent exactly once.
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

    fn client_of(peer: &str, headers: &[(&'static str, &str)]) -> (String, &'static str) {
        let request = TestRequest::default().peer_addr(peer.parse().unwrap());
        let request = headers.iter().fold(request, |request, header| request.append_header(*header)).to_http_request();
        (client_address(request.head(), &server()).to_string(), client_scheme(request.head(), &server()))
    }

    fn address_of(peer: &str, forwarded: &[&str]) -> String {
        let headers: Vec<_> = forwarded.iter().map(|value| ("X-Forwarded-For", *value)).collect();
        client_of(peer, &headers).0
    }

    #[test]
    fn untrusted_peer_cannot_forward_an_address_or_scheme() {
        let headers =
            [("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-Proto", "https"), ("Forwarded", "for=192.0.2.1")];
        assert_eq!(client_of("203.0.113.9:1", &headers), ("203.0.113.9".to_owned(), "http"));
    }

    #[test]
    fn client_address_is_the_nearest_untrusted_hop() {
        assert_eq!(address_of("10.0.0.1:1", &["192.0.2.1"]), "192.0.2.1");
        assert_eq!(address_of("[::ffff:10.0.0.1]:1", &["192.0.2.1"]), "192.0.2.1");
        assert_eq!(address_of("[fd00::1]:1", &["2001:db8::1"]), "2001:db8::1");
        assert_eq!(address_of("10.0.0.1:1", &["1.1.1.1, 192.0.2.1, 10.0.0.2"]), "192.0.2.1", "1.1.1.1 is forged");
        assert_eq!(address_of("10.0.0.1:1", &["1.1.1.1", "192.0.2.1", "10.0.0.2,10.0.0.3"]), "192.0.2.1");
        assert_eq!(
            address_of("10.0.0.1:1", &["nonsense, 192.0.2.1"]),
            "192.0.2.1",
            "an unreadable entry before it is ignored"
        );
        assert_eq!(address_of("10.0.0.1:1", &["192.0.2.1:4711"]), "192.0.2.1");
        assert_eq!(address_of("10.0.0.1:1", &["[2001:db8::1]:4711"]), "2001:db8::1");
        assert_eq!(address_of("10.0.0.1:1", &["::ffff:192.0.2.1"]), "192.0.2.1");
        assert_eq!(
            address_of("10.0.0.1:1", &["10.0.0.9, 10.0.0.2"]),
            "10.0.0.9",
            "the request comes from a trusted proxy"
        );
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
            client_of("10.0.0.1:1", &headers).1
        };
        for (value, scheme) in
            [("https", "https"), ("HTTPS", "https"), ("wss", "https"), ("http", "http"), ("ws", "http")]
        {
            assert_eq!(proto(&[value]), scheme, "{value}");
        }
        for values in [&["https, http"][..], &["https", "https"], &["wss, ws"], &["gopher"], &[""], &[]] {
            assert_eq!(proto(values), "http", "{values:?}");
        }
        let behind = ServerConfig { behind_tls: true, ..server() };
        let request = TestRequest::default().peer_addr("10.0.0.1:1".parse().unwrap());
        assert_eq!(client_scheme(request.to_http_request().head(), &behind), "https");
        let request = TestRequest::default().peer_addr("10.0.0.1:1".parse().unwrap());
        let request = request.append_header(("X-Forwarded-Proto", "ws")).to_http_request();
        assert_eq!(client_scheme(request.head(), &behind), "http");
    }
}
