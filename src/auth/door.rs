//! The doors: where a token may stand in a handshake or a first message. Pure; whether the token is any good is the
//! verifier's business.

use std::{borrow::Cow, fmt};

use percent_encoding::percent_decode_str;

use crate::config::Door;

/// Parameters of the query door.
const PARAMETERS: [&str; 3] = ["token", "access_token", "authorization"];
/// Parameter of the ticket door.
const TICKET: &str = "ticket";
/// Subprotocols that we speak, and answer when they are offered.
const MARKERS: [&str; 3] = ["wardcast.v1", JSON, PROTOBUF];
/// Offered by SDKs that speak JSON ...
pub const JSON: &str = "centrifuge-json";
/// ... or Protobuf.
pub const PROTOBUF: &str = "centrifuge-protobuf";
/// Introduces a token that is no JWT by shape.
const BEARER_ENTRY: &str = "bearer.";

/// What a handshake says where a door may be.
#[derive(Clone, Copy, Default)]
pub struct Request<'r, 'a> {
    /// The URL's query, still encoded.
    pub query: &'a str,
    /// The entries of all `Sec-WebSocket-Protocol` headers, in order.
    pub protocols: &'r [&'a str],
    /// All `Authorization` headers.
    pub authorization: &'r [&'a [u8]],
    /// All `Cookie` headers.
    pub cookies: &'r [&'a [u8]],
}

/// What a handshake brings.
#[derive(Default, PartialEq, Eq)]
pub struct Offer<'a> {
    /// Unverified; without one the session waits for a first message.
    pub credential: Option<Credential<'a>>,
    /// The subprotocol to answer: a marker, never the token, unless nothing else was offered: a browser drops a
    /// connection whose offer is not answered.
    pub answer: Option<&'a str>,
}

/// What is to open the connection.
#[derive(PartialEq, Eq)]
pub enum Credential<'a> {
    /// A token that the client put there.
    Token(Cow<'a, str>),
    /// A token that the browser added: which page is behind it is to be asked.
    Cookie(&'a str),
    /// A ticket, which stands for a token.
    Ticket(Cow<'a, str>),
}

/// Never the token itself, which the answer may be, too.
impl fmt::Debug for Offer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer").field("credential", &self.credential).finish_non_exhaustive()
    }
}

/// Never the credential itself.
impl fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token",
            Self::Cookie(_) => "Cookie",
            Self::Ticket(_) => "Ticket",
        })
    }
}

/// A handshake that cannot be meant: 400 but for the last, which is 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// RFC 6750 §2: a client uses one method.
    #[error("two tokens in one handshake; send one")]
    TwoTokens,
    /// Which of them somebody else has set is unknown.
    #[error("two cookies of the same name")]
    TwoCookies,
    /// `%` without two hexadecimal digits, or bytes that are not UTF-8.
    #[error("the query is not percent-encoded UTF-8")]
    Encoding,
    /// Not one `Authorization` of the scheme Bearer.
    #[error("one Authorization: Bearer is understood")]
    Authorization,
}

/// Looks through the doors that are open. `cookie` is the name of the cookie door's.
///
/// # Errors
/// [`Misuse`], told to the client as it is.
pub fn find<'a>(request: Request<'_, 'a>, doors: &[Door], cookie: &str) -> Result<Offer<'a>, Misuse> {
    let Request { query, protocols, authorization, cookies } = request;
    let mut explicit = in_query(query, doors)?;
    let entries: Vec<(&str, &str)> = protocols.iter().filter_map(|entry| Some((*entry, in_entry(entry)?))).collect();
    if doors.contains(&Door::Subprotocol) {
        explicit.extend(entries.iter().map(|(_, token)| Credential::Token(Cow::Borrowed(*token))));
    }
    if doors.contains(&Door::Header) && !authorization.is_empty() {
        explicit.push(Credential::Token(in_authorization(authorization)?.into()));
    }
    if explicit.len() > 1 {
        return Err(Misuse::TwoTokens);
    }
    let marker = protocols.iter().find(|entry| MARKERS.contains(entry)).copied();
    let only_offer = match (protocols, entries.as_slice()) {
        ([_], [(entry, _)]) if doors.contains(&Door::Subprotocol) => Some(*entry),
        _ => None,
    };
    let ambient = || if doors.contains(&Door::Cookie) { in_cookies(cookies, cookie) } else { Ok(None) };
    let credential = match explicit.pop() {
        None => ambient()?.map(Credential::Cookie),
        explicit => explicit,
    };
    Ok(Offer { credential, answer: marker.or(only_offer) })
}

/// The token in the only `Authorization` header, of the scheme Bearer.
///
/// # Errors
/// [`Misuse::Authorization`] for anything else.
pub fn in_authorization<'a>(values: &[&'a [u8]]) -> Result<&'a str, Misuse> {
    let [value] = values else { return Err(Misuse::Authorization) };
    let value = std::str::from_utf8(value).map_err(|_| Misuse::Authorization)?;
    strip_bearer(value.trim()).ok_or(Misuse::Authorization)
}

/// The value of the only cookie of that name (RFC 6265 §4.2.1). Several are refused: another host of the domain may have set
/// one, and which of them a browser sends first is up to that.
fn in_cookies<'a>(headers: &[&'a [u8]], name: &str) -> Result<Option<&'a str>, Misuse> {
    let pairs = headers.iter().flat_map(|header| header.split(|byte| *byte == b';'));
    let values = pairs.filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        (pair[..at].trim_ascii() == name.as_bytes()).then(|| pair[at + 1..].trim_ascii())
    });
    let mut found = None;
    for value in values {
        if found.is_some() {
            return Err(Misuse::TwoCookies);
        }
        let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        // No token is anything but ASCII: what is not UTF-8 is a bad one, as an empty one is.
        found = Some(std::str::from_utf8(bare).unwrap_or_default());
    }
    Ok(found)
}

/// What stands in the parameters of the doors query and ticket. A duplicate counts twice: which of them a proxy looked at is
/// unknown.
fn in_query<'a>(query: &'a str, doors: &[Door]) -> Result<Vec<Credential<'a>>, Misuse> {
    let (takes_tokens, takes_tickets) = (doors.contains(&Door::Query), doors.contains(&Door::Ticket));
    let mut found = Vec::new();
    if !takes_tokens && !takes_tickets {
        return Ok(found);
    }
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decoded(name)?;
        if takes_tokens && PARAMETERS.contains(&&*name) {
            let value = decoded(value)?;
            found.push(Credential::Token(match strip_bearer(&value) {
                Some(token) => Cow::Owned(token.to_owned()),
                None => value,
            }));
        } else if takes_tickets && name == TICKET {
            found.push(Credential::Ticket(decoded(value)?));
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
#[derive(PartialEq, Eq)]
pub enum FirstText<'a> {
    /// `Authorization: Bearer T`.
    Token(&'a str),
    /// An `Authorization` of another kind.
    OtherScheme,
    /// Something else, perhaps a command.
    Else,
}

/// Never the token itself.
impl fmt::Debug for FirstText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token",
            Self::OtherScheme => "OtherScheme",
            Self::Else => "Else",
        })
    }
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
mod tests;
