//! The doors: where a token may stand in a handshake or a first message. Pure; whether the token is any good is the
//! verifier's business.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::config::Door;

/// Parameters of the query door.
const PARAMETERS: [&str; 3] = ["token", "access_token", "authorization"];
/// Subprotocols that we speak, and answer when they are offered.
const MARKERS: [&str; 2] = ["wardcast.v1", "centrifuge-json"];
/// Offered by SDKs that speak Protobuf.
const PROTOBUF: &str = "centrifuge-protobuf";
/// Introduces a token that is no JWT by shape.
const BEARER_ENTRY: &str = "bearer.";

/// What a handshake brings.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Offer<'a> {
    /// The token, unverified; without one the session waits for a first message.
    pub token: Option<Cow<'a, str>>,
    /// The subprotocol to answer: a marker, never the token, unless nothing else was offered: a browser drops a
    /// connection whose offer is not answered.
    pub answer: Option<&'a str>,
}

/// A handshake that cannot be meant. All are 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// RFC 6750 §2: a client uses one method.
    #[error("two tokens in one handshake; send one")]
    TwoTokens,
    /// `%` without two hexadecimal digits, or bytes that are not UTF-8.
    #[error("the query is not percent-encoded UTF-8")]
    Encoding,
    /// Nothing that is offered is spoken here.
    #[error("Protobuf is not available; offer centrifuge-json or no subprotocol")]
    Protobuf,
}

/// Looks through the doors that are open. `protocols` are the entries of all `Sec-WebSocket-Protocol` headers, in order.
///
/// # Errors
/// [`Misuse`], told to the client as it is.
pub fn find<'a>(query: &'a str, protocols: &[&'a str], doors: &[Door]) -> Result<Offer<'a>, Misuse> {
    let mut tokens = Vec::new();
    if doors.contains(&Door::Query) {
        tokens.extend(in_query(query)?);
    }
    let entries: Vec<(&str, &str)> = protocols.iter().filter_map(|entry| Some((*entry, in_entry(entry)?))).collect();
    if doors.contains(&Door::Subprotocol) {
        tokens.extend(entries.iter().map(|(_, token)| Cow::Borrowed(*token)));
    }
    if tokens.len() > 1 {
        return Err(Misuse::TwoTokens);
    }
    let marker = protocols.iter().find(|entry| MARKERS.contains(entry)).copied();
    if marker.is_none() && protocols.contains(&PROTOBUF) {
        return Err(Misuse::Protobuf);
    }
    let only_offer = match (protocols, entries.as_slice()) {
        ([_], [(entry, _)]) if doors.contains(&Door::Subprotocol) => Some(*entry),
        _ => None,
    };
    Ok(Offer { token: tokens.pop(), answer: marker.or(only_offer) })
}

/// The values of the query door's parameters. A duplicate counts twice: which of them a proxy looked at is unknown.
fn in_query(query: &str) -> Result<Vec<Cow<'_, str>>, Misuse> {
    let mut found = Vec::new();
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if PARAMETERS.contains(&&*decoded(name)?) {
            let value = decoded(value)?;
            found.push(match strip_bearer(&value) {
                Some(token) => Cow::Owned(token.to_owned()),
                None => value,
            });
        }
    }
    Ok(found)
}

fn decoded(text: &str) -> Result<Cow<'_, str>, Misuse> {
    let is_broken =
        |after: &str| !after.as_bytes().first_chunk::<2>().is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
    if text.split('%').skip(1).any(is_broken) {
        return Err(Misuse::Encoding);
    }
    percent_decode_str(text).decode_utf8().map_err(|_| Misuse::Encoding)
}

/// The token in a subprotocol entry: a JWT by shape (three base64url parts), or behind `bearer.`.
fn in_entry(entry: &str) -> Option<&str> {
    let is_base64_url = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let mut parts = entry.split('.');
    let is_jwt = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(header), Some(payload), Some(signature), None) => {
            // `{"` in base64: what begins otherwise is a dotted name like v1.proto.example
            header.starts_with("ey") && [header, payload, signature].into_iter().all(is_base64_url)
        }
        _ => false,
    };
    if is_jwt { Some(entry) } else { entry.strip_prefix(BEARER_ENTRY) }
}

/// A first message of text.
#[derive(Debug, PartialEq, Eq)]
pub enum FirstText<'a> {
    /// `Authorization: Bearer T`.
    Token(&'a str),
    /// An `Authorization` of another kind.
    OtherScheme,
    /// Something else, perhaps a command.
    Else,
}

/// Reads `Authorization: Bearer T`, tolerant in case and spaces as HTTP is (RFC 9110 §11.4).
pub fn first_text(text: &str) -> FirstText<'_> {
    let Some((name, value)) = text.split_once(':') else { return FirstText::Else };
    if !name.trim().eq_ignore_ascii_case("authorization") {
        return FirstText::Else;
    }
    strip_bearer(value.trim()).map_or(FirstText::OtherScheme, FirstText::Token)
}

/// What stands behind the scheme `Bearer`.
pub fn strip_bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Door; 4] = [Door::Query, Door::Subprotocol, Door::Message, Door::Connect];
    const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln";

    fn token<'a>(query: &'a str, protocols: &[&'a str]) -> Result<Option<String>, Misuse> {
        find(query, protocols, &ALL).map(|offer| offer.token.map(Cow::into_owned))
    }

    #[test]
    fn the_query_door_knows_three_names() {
        for query in
            [format!("token={JWT}"), format!("a=b&access_token={JWT}"), format!("authorization=Bearer%20{JWT}")]
        {
            assert_eq!(token(&query, &[]).unwrap().as_deref(), Some(JWT), "{query}");
        }
        assert_eq!(token("token=", &[]).unwrap().as_deref(), Some(""), "empty is a bad token, not none");
        assert_eq!(token("", &[]).unwrap(), None);
    }

    #[test]
    fn queries_that_cannot_be_meant_are_refused() {
        assert_eq!(token("token=a&token=b", &[]), Err(Misuse::TwoTokens));
        assert_eq!(token("token=a&access_token=a", &[]), Err(Misuse::TwoTokens));
        assert_eq!(token("token=a", &[JWT]), Err(Misuse::TwoTokens));
        for query in ["token=%", "token=%zz", "token=a%2", "token=%ff"] {
            assert_eq!(token(query, &[]), Err(Misuse::Encoding), "{query}");
        }
    }

    #[test]
    fn a_marker_is_answered_and_a_token_only_when_it_stands_alone() {
        let answer = |protocols: &[&'static str]| find("", protocols, &ALL).unwrap().answer;
        assert_eq!(answer(&["wardcast.v1", JWT]), Some("wardcast.v1"));
        assert_eq!(answer(&[JWT, "centrifuge-json"]), Some("centrifuge-json"));
        assert_eq!(answer(&[JWT]), Some(JWT));
        assert_eq!(answer(&["bearer.opaque"]), Some("bearer.opaque"));
        assert_eq!(answer(&["chat", JWT]), None);
        assert_eq!(answer(&["chat"]), None);
        assert_eq!(token("", &["wardcast.v1", "bearer.opaque"]).unwrap().as_deref(), Some("opaque"));
        assert_eq!(token("", &["v1.proto.example"]).unwrap(), None, "a dotted name is no token");
        assert_eq!(find("", &[PROTOBUF], &ALL), Err(Misuse::Protobuf));
    }

    #[test]
    fn a_closed_door_lets_nothing_in() {
        assert_eq!(find("token=a", &[JWT], &[Door::Message]), Ok(Offer::default()));
    }

    #[test]
    fn the_first_message_is_read_as_http_reads_it() {
        for text in ["Authorization: Bearer T", "authorization:bearer T", "AUTHORIZATION:   BEARER   T  "] {
            assert_eq!(first_text(text), FirstText::Token("T"), "{text}");
        }
        assert_eq!(first_text("Authorization: Basic T"), FirstText::OtherScheme);
        assert_eq!(first_text("Authorization: T"), FirstText::OtherScheme);
        assert_eq!(first_text(r#"{"id":1,"connect":{}}"#), FirstText::Else);
        assert_eq!(first_text("hello"), FirstText::Else);
    }
}
