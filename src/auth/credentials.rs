//! The doors: where a token may stand in a handshake or a first message. Pure; whether the token is any good is the
//! verifier's business.

use std::{borrow::Cow, fmt};

use percent_encoding::percent_decode_str;

use crate::config::Door;

/// Parameters of the query door.
const TOKEN_PARAMETERS: [&str; 3] = ["token", "access_token", "authorization"];
/// Parameter of the ticket door.
const TICKET_PARAMETER: &str = "ticket";
/// Subprotocols that we speak, and answer when they are offered.
const SUBPROTOCOLS: [&str; 3] = ["wardcast.v1", JSON_SUBPROTOCOL, PROTOBUF_SUBPROTOCOL];
/// Offered by SDKs that speak JSON ...
pub const JSON_SUBPROTOCOL: &str = "centrifuge-json";
/// ... or Protobuf.
pub const PROTOBUF_SUBPROTOCOL: &str = "centrifuge-protobuf";
/// Introduces a token that is no JWT by shape.
const BEARER_PREFIX: &str = "bearer.";

/// What a handshake says where a door may be.
#[derive(Clone, Copy, Default)]
pub struct CredentialSources<'r, 'a> {
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
pub struct HandshakeCredentials<'a> {
    /// Unverified; without one the session waits for a first message.
    pub credential: Option<Credential<'a>>,
    /// The subprotocol to answer: a marker, never the token, unless nothing else was offered: a browser drops a
    /// connection whose offer is not answered.
    pub subprotocol: Option<&'a str>,
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
impl fmt::Debug for HandshakeCredentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandshakeCredentials").field("credential", &self.credential).finish_non_exhaustive()
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
pub enum CredentialError {
    /// RFC 6750 §2: a client uses one method.
    #[error("two tokens in one handshake; send one")]
    MultipleTokens,
    /// Which of them somebody else has set is unknown.
    #[error("two cookies of the same name")]
    MultipleCookies,
    /// `%` without two hexadecimal digits, or bytes that are not UTF-8.
    #[error("the query is not percent-encoded UTF-8")]
    QueryEncoding,
    /// Not one `Authorization` of the scheme Bearer.
    #[error("one Authorization: Bearer is understood")]
    AuthorizationHeader,
}

/// Looks through the doors that are open. `cookie` is the name of the cookie door's.
///
/// # Errors
/// [`CredentialError`], told to the client as it is.
pub fn find_credentials<'a>(
    request: CredentialSources<'_, 'a>,
    doors: &[Door],
    cookie: &str,
) -> Result<HandshakeCredentials<'a>, CredentialError> {
    let CredentialSources { query, protocols, authorization, cookies } = request;
    let mut explicit = query_credentials(query, doors)?;
    let entries: Vec<(&str, &str)> = protocols.iter().filter_map(|entry| Some((*entry, entry_token(entry)?))).collect();
    if doors.contains(&Door::Subprotocol) {
        explicit.extend(entries.iter().map(|(_, token)| Credential::Token(Cow::Borrowed(*token))));
    }
    if doors.contains(&Door::Header) && !authorization.is_empty() {
        explicit.push(Credential::Token(bearer_token(authorization)?.into()));
    }
    if explicit.len() > 1 {
        return Err(CredentialError::MultipleTokens);
    }
    let marker = protocols.iter().find(|entry| SUBPROTOCOLS.contains(entry)).copied();
    let only_offer = match (protocols, entries.as_slice()) {
        ([_], [(entry, _)]) if doors.contains(&Door::Subprotocol) => Some(*entry),
        _ => None,
    };
    let from_cookie = || if doors.contains(&Door::Cookie) { cookie_value(cookies, cookie) } else { Ok(None) };
    let credential = match explicit.pop() {
        None => from_cookie()?.map(Credential::Cookie),
        explicit => explicit,
    };
    Ok(HandshakeCredentials { credential, subprotocol: marker.or(only_offer) })
}

/// The token in the only `Authorization` header, of the scheme Bearer.
///
/// # Errors
/// [`CredentialError::AuthorizationHeader`] for anything else.
pub fn bearer_token<'a>(values: &[&'a [u8]]) -> Result<&'a str, CredentialError> {
    let [value] = values else { return Err(CredentialError::AuthorizationHeader) };
    let value = std::str::from_utf8(value).map_err(|_| CredentialError::AuthorizationHeader)?;
    strip_bearer(value.trim()).ok_or(CredentialError::AuthorizationHeader)
}

/// The value of the only cookie of that name (RFC 6265 §4.2.1). Several are refused: another host of the domain may have set
/// one, and which of them a browser sends first is up to that.
fn cookie_value<'a>(headers: &[&'a [u8]], name: &str) -> Result<Option<&'a str>, CredentialError> {
    let pairs = headers.iter().flat_map(|header| header.split(|byte| *byte == b';'));
    let values = pairs.filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        (pair[..at].trim_ascii() == name.as_bytes()).then(|| pair[at + 1..].trim_ascii())
    });
    let mut found = None;
    for value in values {
        if found.is_some() {
            return Err(CredentialError::MultipleCookies);
        }
        let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        // No token is anything but ASCII: what is not UTF-8 is a bad one, as an empty one is.
        found = Some(std::str::from_utf8(bare).unwrap_or_default());
    }
    Ok(found)
}

/// What stands in the parameters of the doors query and ticket. A duplicate counts twice: which of them a proxy looked at is
/// unknown.
fn query_credentials<'a>(query: &'a str, doors: &[Door]) -> Result<Vec<Credential<'a>>, CredentialError> {
    let (takes_tokens, takes_tickets) = (doors.contains(&Door::Query), doors.contains(&Door::Ticket));
    let mut found = Vec::new();
    if !takes_tokens && !takes_tickets {
        return Ok(found);
    }
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = percent_decode(name)?;
        if takes_tokens && TOKEN_PARAMETERS.contains(&&*name) {
            let value = percent_decode(value)?;
            found.push(Credential::Token(match strip_bearer(&value) {
                Some(token) => Cow::Owned(token.to_owned()),
                None => value,
            }));
        } else if takes_tickets && name == TICKET_PARAMETER {
            found.push(Credential::Ticket(percent_decode(value)?));
        }
    }
    Ok(found)
}

fn percent_decode(text: &str) -> Result<Cow<'_, str>, CredentialError> {
    let is_broken =
        |after: &str| !after.as_bytes().first_chunk::<2>().is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
    if text.split('%').skip(1).any(is_broken) {
        return Err(CredentialError::QueryEncoding);
    }
    percent_decode_str(text).decode_utf8().map_err(|_| CredentialError::QueryEncoding)
}

/// The token in a subprotocol entry: a JWT by shape (three base64url parts), or behind `bearer.`.
fn entry_token(entry: &str) -> Option<&str> {
    let is_base64_url = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let mut parts = entry.split('.');
    let is_jwt = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(header), Some(payload), Some(signature), None) => {
            // `{"` in base64: what begins otherwise is a dotted name like v1.proto.example
            header.starts_with("ey") && [header, payload, signature].into_iter().all(is_base64_url)
        }
        _ => false,
    };
    if is_jwt { Some(entry) } else { entry.strip_prefix(BEARER_PREFIX) }
}

/// A first message of text.
#[derive(PartialEq, Eq)]
pub enum FirstMessage<'a> {
    /// `Authorization: Bearer T`.
    Token(&'a str),
    /// An `Authorization` of another kind.
    OtherScheme,
    /// Something else, perhaps a command.
    Other,
}

/// Never the token itself.
impl fmt::Debug for FirstMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token",
            Self::OtherScheme => "OtherScheme",
            Self::Other => "Other",
        })
    }
}

/// Reads `Authorization: Bearer T`, tolerant in case and spaces as HTTP is (RFC 9110 §11.4).
pub fn parse_first_message(text: &str) -> FirstMessage<'_> {
    let Some((name, value)) = text.split_once(':') else { return FirstMessage::Other };
    if !name.trim().eq_ignore_ascii_case("authorization") {
        return FirstMessage::Other;
    }
    strip_bearer(value.trim()).map_or(FirstMessage::OtherScheme, FirstMessage::Token)
}

/// What stands behind the scheme `Bearer`.
pub fn strip_bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests;
