//! Credentials: whatever a handshake or a first message contains, a token is found only at an enabled door.

use wardcast::{
    auth::credentials::{
        Credential, CredentialError, CredentialSources, FirstMessage, HandshakeCredentials, bearer_token,
        find_credentials, parse_first_message, strip_bearer,
    },
    config::Door,
};

const COOKIE: &str = "wardcast_token";
const MARKERS: [&str; 3] = ["wardcast.v1", "centrifuge-json", "centrifuge-protobuf"];
/// The doors that the bits of the first byte enable.
const DOORS: [Door; 5] = [Door::Query, Door::Ticket, Door::Subprotocol, Door::Cookie, Door::Header];

/// The first byte says which doors are enabled. Lines of a handshake follow; the first byte of each says what it is: `q`uery,
/// sub`p`rotocol, `a`uthorization or `c`ookie.
pub fn credentials(data: &[u8]) {
    let Some((open, lines)) = data.split_first() else { return };
    let doors: Vec<Door> = (0..DOORS.len()).filter(|bit| open >> bit & 1 != 0).map(|bit| DOORS[bit]).collect();
    let (mut query, mut protocols, mut authorization, mut cookies) = ("", Vec::new(), Vec::new(), Vec::new());
    for line in lines.split(|byte| *byte == b'\n') {
        let Some((kind, value)) = line.split_first() else { continue };
        match (kind, std::str::from_utf8(value)) {
            (b'q', Ok(text)) => query = text,
            (b'p', Ok(text)) => protocols.push(text),
            (b'a', _) => authorization.push(value),
            (b'c', _) => cookies.push(value),
            _ => {}
        }
    }
    let request = CredentialSources { query, protocols: &protocols, authorization: &authorization, cookies: &cookies };
    let found = find_credentials(request, &doors, COOKIE);
    if let Ok(offer) = &found {
        check_door_of_credential(offer, request, &doors);
        check_selected_subprotocol(offer, &protocols);
    }
    check_second_token(&found, request, &doors);
    check_second_cookie(&found, request, &doors);
    check_broken_query(request, &doors);
    let one = bearer_token(&authorization);
    assert!(one.is_err() || authorization.len() == 1, "{} headers gave a token", authorization.len());
    if let Ok(text) = std::str::from_utf8(lines) {
        check_encoded_query(text);
        check_first_message(text);
    }
}

fn check_door_of_credential(offer: &HandshakeCredentials<'_>, request: CredentialSources<'_, '_>, doors: &[Door]) {
    let contains = |header: &&[u8], text: &str| {
        text.is_empty() || header.windows(text.len()).any(|window| window == text.as_bytes())
    };
    match &offer.credential {
        None => {}
        Some(Credential::Ticket(_)) => assert!(doors.contains(&Door::Ticket) && !request.query.is_empty()),
        Some(Credential::Cookie(cookie)) => {
            assert!(doors.contains(&Door::Cookie), "the cookie door is disabled");
            assert!(request.cookies.iter().any(|header| contains(header, cookie)), "{cookie:?} was in no cookie");
        }
        Some(Credential::Token(token)) => {
            let by_query = doors.contains(&Door::Query) && !request.query.is_empty();
            let is_entry = |entry: &&str| *entry == token || entry.strip_prefix("bearer.") == Some(token);
            let by_protocol = doors.contains(&Door::Subprotocol) && request.protocols.iter().any(is_entry);
            let header = request.authorization.first().filter(|_| request.authorization.len() == 1);
            let by_header = doors.contains(&Door::Header) && header.is_some_and(|header| contains(header, token));
            assert!(by_query || by_protocol || by_header, "{token:?} was found at no enabled door");
        }
    }
}

/// A token is never selected as the subprotocol, unless nothing else was offered.
fn check_selected_subprotocol(offer: &HandshakeCredentials<'_>, protocols: &[&str]) {
    if let Some(answer) = offer.subprotocol {
        assert!(protocols.contains(&answer), "{answer:?} was not offered");
        assert!(MARKERS.contains(&answer) || protocols.len() == 1, "{answer:?} is selected, and not a marker");
    }
}

/// Adds a token to the query. A second explicit token is refused wherever it is (RFC 6750 §2), a first one overrides the
/// cookie, and at a disabled door it changes nothing.
fn check_second_token(
    found: &Result<HandshakeCredentials<'_>, CredentialError>,
    request: CredentialSources<'_, '_>,
    doors: &[Door],
) {
    let query = format!("{}&access_token=another", request.query);
    let more = find_credentials(CredentialSources { query: &query, ..request }, doors, COOKIE);
    match found {
        _ if !doors.contains(&Door::Query) => assert_eq!(&more, found),
        Ok(offer) if matches!(offer.credential, None | Some(Credential::Cookie(_))) || is_misplaced(offer, request) => {
            let credential = more.map(|offer| offer.credential);
            assert_eq!(credential, Ok(Some(Credential::Token("another".into()))));
        }
        Ok(_) => assert_eq!(more, Err(CredentialError::MultipleTokens)),
        // Two cookies are no error if there is a token.
        Err(CredentialError::MultipleCookies) => assert!(more.is_ok()),
        Err(_) => assert!(more.is_err()),
    }
}

/// Adds a cookie of the same name. Neither of the two is used.
fn check_second_cookie(
    found: &Result<HandshakeCredentials<'_>, CredentialError>,
    request: CredentialSources<'_, '_>,
    doors: &[Door],
) {
    if found.as_ref().is_ok_and(|found| matches!(found.credential, Some(Credential::Cookie(_)))) {
        let another = format!("{COOKIE}=another");
        let cookies = [request.cookies, &[another.as_bytes()]].concat();
        let more = find_credentials(CredentialSources { cookies: &cookies, ..request }, doors, COOKIE);
        assert_eq!(more, Err(CredentialError::MultipleCookies));
    }
}

/// Adds a token whose encoding is broken.
fn check_broken_query(request: CredentialSources<'_, '_>, doors: &[Door]) {
    let query = format!("{}&token=a%zz", request.query);
    let more = find_credentials(CredentialSources { query: &query, ..request }, doors, COOKIE);
    assert!(more.is_err() || !doors.contains(&Door::Query), "{more:?}");
}

/// Returns whether the credential is an entry that counts as a token only because it is alone beside a marker, and because
/// there is no token elsewhere: no offered entry is a token on its own.
fn is_misplaced(offer: &HandshakeCredentials<'_>, request: CredentialSources<'_, '_>) -> bool {
    let is_token = |entry: &&str| {
        let alone = CredentialSources { protocols: &[*entry], ..CredentialSources::default() };
        find_credentials(alone, &[Door::Subprotocol], COOKIE).is_ok_and(|found| found.credential.is_some())
    };
    offer.door == Some(Door::Subprotocol) && !request.protocols.iter().any(is_token)
}

/// A percent-encoded token is decoded to its text, and so is the name of its parameter.
fn check_encoded_query(text: &str) {
    let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    let query = format!("a=b&{}={}&c", encode("token"), encode(text));
    let found =
        find_credentials(CredentialSources { query: &query, ..CredentialSources::default() }, &[Door::Query], COOKIE);
    let token = strip_bearer(text).unwrap_or(text);
    assert_eq!(found.map(|offer| offer.credential), Ok(Some(Credential::Token(token.into()))));
}

fn check_first_message(text: &str) {
    if let FirstMessage::Token(token) = parse_first_message(text) {
        assert!(!token.is_empty() && token == token.trim() && text.trim_end().ends_with(token), "{token:?}");
        assert!(text.trim_start().to_ascii_lowercase().starts_with("authorization"), "{text:?}");
    }
    let token = text.trim();
    if !token.is_empty() {
        for scheme in ["Authorization: Bearer", "authorization:BEARER ", " AUTHORIZATION :  bearer"] {
            assert_eq!(parse_first_message(&format!("{scheme} {token}")), FirstMessage::Token(token));
        }
    }
}
