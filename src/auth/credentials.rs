//! Finds the credential in a handshake or a first message, in the places that `auth.doors` allows. Pure; the verifier checks the
//! token itself.

use std::{borrow::Cow, fmt};

use percent_encoding::percent_decode_str;

use crate::config::Door;

/// Query parameters that contain a token.
const TOKEN_PARAMETERS: [&str; 3] = ["token", "access_token", "authorization"];
/// Query parameter that contains a ticket.
const TICKET_PARAMETER: &str = "ticket";
/// Subprotocols that the hub supports and answers if a client offers them: the markers beside a token.
const SUBPROTOCOLS: [&str; 3] = [OWN_SUBPROTOCOL, JSON_SUBPROTOCOL, PROTOBUF_SUBPROTOCOL];
/// Offered beside a token by clients that are no SDK.
const OWN_SUBPROTOCOL: &str = "wardcast.v1";
/// Offered by SDKs that use JSON.
pub const JSON_SUBPROTOCOL: &str = "centrifuge-json";
/// Offered by SDKs that use Protobuf.
pub const PROTOBUF_SUBPROTOCOL: &str = "centrifuge-protobuf";
/// Prefix of a subprotocol entry whose rest is a token, which need not look like a JWT.
const BEARER_PREFIX: &str = "bearer.";

/// The ways to send a token in a handshake.
const HANDSHAKE_DOORS: [Door; 5] = [Door::Query, Door::Ticket, Door::Subprotocol, Door::Header, Door::Cookie];

/// The parts of a handshake that can contain a credential.
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

/// The credential in a handshake, and the subprotocol to answer.
#[derive(Default, PartialEq, Eq)]
pub struct HandshakeCredentials<'a> {
    /// Not yet verified. Without one the session waits for a first message.
    pub credential: Option<Credential<'a>>,
    /// The way in which it was sent.
    pub door: Option<Door>,
    /// The subprotocol to answer: one of those the hub supports. It is the entry with the token only if nothing else was
    /// offered, since browsers drop a connection if none of the offered subprotocols is answered.
    pub subprotocol: Option<&'a str>,
}

/// The credential of a client.
#[derive(PartialEq, Eq)]
pub enum Credential<'a> {
    /// A token that the client sent explicitly.
    Token(Cow<'a, str>),
    /// A token from a cookie, which browsers add to the requests of any page: the caller has to check the origin.
    Cookie(&'a str),
    /// A ticket for a token.
    Ticket(Cow<'a, str>),
}

/// Never prints the token, which the subprotocol may contain, too.
impl fmt::Debug for HandshakeCredentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandshakeCredentials").field("credential", &self.credential).finish_non_exhaustive()
    }
}

/// Never prints the credential itself.
impl fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token",
            Self::Cookie(_) => "Cookie",
            Self::Ticket(_) => "Ticket",
        })
    }
}

/// Why the credentials of a handshake are refused: with 400, or with 401 for [`AuthorizationHeader`](Self::AuthorizationHeader).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// More than one token or ticket (RFC 6750 §2: a client uses one method).
    #[error("more than one token in the handshake; send one")]
    MultipleTokens,
    /// More than one cookie of the name in `auth.cookie`. Another host of the domain may have set one of them.
    #[error("more than one cookie with the token; delete them and log in again")]
    MultipleCookies,
    /// A token in `Sec-WebSocket-Protocol` beside other entries, none of which is a subprotocol of the hub: browsers drop a
    /// connection if none of the offered subprotocols is answered.
    #[error("no subprotocol that the hub can answer beside the token; offer [\"{OWN_SUBPROTOCOL}\", TOKEN]")]
    MissingMarker,
    /// `%` without two hexadecimal digits, or bytes that are not UTF-8.
    #[error("the query string is not percent-encoded UTF-8")]
    QueryEncoding,
    /// Not exactly one `Authorization` header, or not of the scheme Bearer.
    #[error("send exactly one header Authorization: Bearer TOKEN")]
    AuthorizationHeader,
}

impl CredentialError {
    /// Returns the remedy, for an operator or the author of a client.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::MultipleTokens => "send the token in one way only; a proxy may add another one",
            Self::MultipleCookies => {
                "let one host only set the cookie, with a name that begins with __Host- (auth.cookie)"
            }
            Self::MissingMarker => "connect with new WebSocket(url, [\"wardcast.v1\", token])",
            Self::QueryEncoding => "encode the token with encodeURIComponent or URLSearchParams",
            Self::AuthorizationHeader => "send Authorization: Bearer TOKEN, once",
        }
    }
}

/// Finds the credential in the places that `doors` allows. `cookie` is the name of the cookie. An explicit credential takes
/// precedence over the cookie.
///
/// # Errors
/// [`CredentialError`], whose text is sent to the client.
pub fn find_credentials<'a>(
    sources: CredentialSources<'_, 'a>,
    doors: &[Door],
    cookie: &str,
) -> Result<HandshakeCredentials<'a>, CredentialError> {
    let CredentialSources { query, protocols, authorization, cookies } = sources;
    let mut explicit = query_credentials(query, doors)?;
    let offer = Offer::parse(protocols);
    let offered_tokens = if doors.contains(&Door::Subprotocol) { offer.tokens.as_slice() } else { &[] };
    explicit.extend(offered_tokens.iter().map(|token| (Door::Subprotocol, Credential::Token((*token).into()))));
    if doors.contains(&Door::Header) && !authorization.is_empty() {
        explicit.push((Door::Header, Credential::Token(bearer_token(authorization)?.into())));
    }
    if explicit.len() > 1 {
        return Err(CredentialError::MultipleTokens);
    }
    let subprotocol = match (offer.marker, offered_tokens, protocols) {
        (Some(marker), ..) => Some(marker),
        (None, [], _) => None,
        (None, [_], [only]) => Some(*only),
        (None, ..) => return Err(CredentialError::MissingMarker),
    };
    let misplaced = offer.misplaced_token().filter(|_| doors.contains(&Door::Subprotocol));
    let from_cookie = || if doors.contains(&Door::Cookie) { cookie_value(cookies, cookie) } else { Ok(None) };
    let found = match (explicit.pop(), misplaced) {
        (Some(explicit), _) => Some(explicit),
        (None, Some(misplaced)) => Some((Door::Subprotocol, Credential::Token(misplaced.into()))),
        (None, None) => from_cookie()?.map(|token| (Door::Cookie, Credential::Cookie(token))),
    };
    let (door, credential) = found.unzip();
    Ok(HandshakeCredentials { credential, door, subprotocol })
}

/// Returns the first way of a handshake to send a token that `doors` does not list and that the client has used.
pub fn disabled_door(sources: CredentialSources<'_, '_>, doors: &[Door], cookie: &str) -> Option<Door> {
    let disabled = HANDSHAKE_DOORS.into_iter().filter(|door| !doors.contains(door));
    let mut used = disabled
        .filter(|door| find_credentials(sources, &[*door], cookie).map_or(true, |found| found.credential.is_some()));
    used.next()
}

/// The entries of `Sec-WebSocket-Protocol` by what they mean.
struct Offer<'a> {
    /// The first subprotocol of the hub.
    marker: Option<&'a str>,
    /// The tokens.
    tokens: Vec<&'a str>,
    /// All other entries.
    unknown: Vec<&'a str>,
}

impl<'a> Offer<'a> {
    fn parse(entries: &[&'a str]) -> Self {
        let mut offer = Self { marker: None, tokens: Vec::new(), unknown: Vec::new() };
        for entry in entries {
            match entry_token(entry) {
                Some(token) => offer.tokens.push(token),
                None if SUBPROTOCOLS.contains(entry) => offer.marker = offer.marker.or(Some(*entry)),
                None => offer.unknown.push(entry),
            }
        }
        offer
    }

    /// Returns the single entry beside a marker that is neither a subprotocol of the hub nor looks like a token, such as
    /// `undefined`: a script offers this when it has no token. It counts as a bad token, so that the script learns of its error
    /// at once, and not by a timeout.
    fn misplaced_token(&self) -> Option<&'a str> {
        match (self.marker, self.unknown.as_slice()) {
            (Some(_), [only]) => Some(*only),
            _ => None,
        }
    }
}

/// Returns the token in the `Authorization` header.
///
/// # Errors
/// [`CredentialError::AuthorizationHeader`] unless there is exactly one header of the scheme Bearer.
pub fn bearer_token<'a>(values: &[&'a [u8]]) -> Result<&'a str, CredentialError> {
    let [value] = values else { return Err(CredentialError::AuthorizationHeader) };
    let value = std::str::from_utf8(value).map_err(|_| CredentialError::AuthorizationHeader)?;
    strip_bearer(value.trim()).ok_or(CredentialError::AuthorizationHeader)
}

/// Returns the value of the cookie `name` (RFC 6265 §4.2.1). Several are refused: another host of the domain may have set one, and
/// controls which one browsers send first.
///
/// # Errors
/// [`CredentialError::MultipleCookies`].
pub fn cookie_value<'a>(headers: &[&'a [u8]], name: &str) -> Result<Option<&'a str>, CredentialError> {
    let mut values = cookies(headers).filter(|(other, _)| *other == name.as_bytes()).map(|(_, value)| value);
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(CredentialError::MultipleCookies),
        (value, None) => Ok(value),
    }
}

/// Returns the names and values of the cookies in `Cookie` headers. A value that is not UTF-8 becomes the empty text.
pub fn cookies<'a>(headers: &[&'a [u8]]) -> impl Iterator<Item = (&'a [u8], &'a str)> {
    let pairs = headers.iter().flat_map(|header| header.split(|byte| *byte == b';'));
    pairs.filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let value = pair[at + 1..].trim_ascii();
        let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        Some((pair[..at].trim_ascii(), std::str::from_utf8(bare).unwrap_or_default()))
    })
}

/// Returns a `Cookie` header without the cookies for whose name `is_removed` returns true; `None` if it has no others.
pub fn without_cookies(header: &[u8], is_removed: impl Fn(&[u8]) -> bool) -> Option<Cow<'_, [u8]>> {
    let is_kept = |pair: &&[u8]| {
        let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
        !is_removed(name)
    };
    let pairs = || header.split(|byte| *byte == b';');
    if pairs().all(|pair| is_kept(&pair)) {
        return Some(Cow::Borrowed(header));
    }
    let kept: Vec<&[u8]> = pairs().filter(is_kept).map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty()).collect();
    (!kept.is_empty()).then(|| Cow::Owned(kept.join(&b"; "[..])))
}

/// Returns all tokens and tickets in the query string. A duplicate parameter counts twice: a proxy before the hub may have looked
/// at the other one.
fn query_credentials<'a>(query: &'a str, doors: &[Door]) -> Result<Vec<(Door, Credential<'a>)>, CredentialError> {
    let (allows_tokens, allows_tickets) = (doors.contains(&Door::Query), doors.contains(&Door::Ticket));
    let mut found = Vec::new();
    if !allows_tokens && !allows_tickets {
        return Ok(found);
    }
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = percent_decode(name)?;
        if allows_tokens && TOKEN_PARAMETERS.contains(&&*name) {
            let value = percent_decode(value)?;
            let token = match strip_bearer(&value) {
                Some(token) => Cow::Owned(token.to_owned()),
                None => value,
            };
            found.push((Door::Query, Credential::Token(token)));
        } else if allows_tickets && name == TICKET_PARAMETER {
            found.push((Door::Ticket, Credential::Ticket(percent_decode(value)?)));
        }
    }
    Ok(found)
}

/// Returns the value of the only field `name` of a form (`application/x-www-form-urlencoded`); `None` without one, with several, and
/// for a body that is no form.
pub fn form_value<'a>(form: &'a [u8], name: &str) -> Option<Cow<'a, str>> {
    let pairs = std::str::from_utf8(form).ok()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut values = pairs.filter(|(field, _)| percent_decode(field).is_ok_and(|field| field == name));
    let (_, value) = values.next().filter(|_| values.next().is_none())?;
    percent_decode(value).ok()
}

/// Decodes a part of a query as forms and `URLSearchParams` encode it: `+` is a space.
fn percent_decode(text: &str) -> Result<Cow<'_, str>, CredentialError> {
    let is_broken =
        |after: &str| !after.as_bytes().first_chunk::<2>().is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
    if text.split('%').skip(1).any(is_broken) {
        return Err(CredentialError::QueryEncoding);
    }
    let decoded = if text.contains('+') {
        percent_decode_str(&text.replace('+', " ")).decode_utf8().map(|decoded| Cow::Owned(decoded.into_owned()))
    } else {
        percent_decode_str(text).decode_utf8()
    };
    decoded.map_err(|_| CredentialError::QueryEncoding)
}

/// Returns the token in a subprotocol entry: an entry that looks like a JWT (three base64url parts), or the rest after `bearer.`.
fn entry_token(entry: &str) -> Option<&str> {
    let is_base64_url = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let mut parts = entry.split('.');
    let is_jwt = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(header), Some(payload), Some(signature), None) => {
            // "ey" is `{"` in base64. Other entries with dots are names like v1.proto.example.
            header.starts_with("ey") && [header, payload, signature].into_iter().all(is_base64_url)
        }
        _ => false,
    };
    if is_jwt { Some(entry) } else { entry.strip_prefix(BEARER_PREFIX) }
}

/// A first message, if it is text.
#[derive(PartialEq, Eq)]
pub enum FirstMessage<'a> {
    /// `Authorization: Bearer T`.
    Token(&'a str),
    /// `Authorization` with another scheme.
    OtherScheme,
    /// Anything else, perhaps a command.
    Other,
}

/// Never prints the token itself.
impl fmt::Debug for FirstMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token",
            Self::OtherScheme => "OtherScheme",
            Self::Other => "Other",
        })
    }
}

/// Parses `Authorization: Bearer T`, with any case and spaces as in HTTP (RFC 9110 §11.4).
pub fn parse_first_message(text: &str) -> FirstMessage<'_> {
    let Some((name, value)) = text.split_once(':') else { return FirstMessage::Other };
    if !name.trim().eq_ignore_ascii_case("authorization") {
        return FirstMessage::Other;
    }
    strip_bearer(value.trim()).map_or(FirstMessage::OtherScheme, FirstMessage::Token)
}

/// Returns the token after the scheme `Bearer`, if the value has this scheme.
pub fn strip_bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests;
