//! The negotiation of permessage-deflate in the handshake (RFC 7692 §5 and §7.1). Pure.

use std::borrow::Cow;

use super::WINDOW_BITS;

const EXTENSION: &str = "permessage-deflate";
const SERVER_NO_CONTEXT_TAKEOVER: &str = "server_no_context_takeover";
const CLIENT_NO_CONTEXT_TAKEOVER: &str = "client_no_context_takeover";
const SERVER_MAX_WINDOW_BITS: &str = "server_max_window_bits";
const CLIENT_MAX_WINDOW_BITS: &str = "client_max_window_bits";
/// How many parameters the extension has. An offer with more is declined: one of them is unknown or comes twice.
const PARAMETERS: usize = 4;

/// `Sec-WebSocket-Extensions` that does not follow the grammar. The handshake fails (RFC 6455 §9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Sec-WebSocket-Extensions is malformed")]
pub struct MalformedExtensions;

/// Decides on the extensions that a client offers in all its `Sec-WebSocket-Extensions` headers. Returns the value of the header that
/// accepts the first offer of permessage-deflate that the hub can meet; `None` if it can meet no offer.
///
/// # Errors
/// [`MalformedExtensions`]
pub fn negotiate<'a>(headers: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<String>, MalformedExtensions> {
    let mut accepted = None;
    for header in headers {
        let mut rest = Rest(std::str::from_utf8(header).map_err(|_| MalformedExtensions)?);
        // What follows an accepted offer has to follow the grammar, too.
        while let Some(offer) = rest.next_offer()? {
            accepted = accepted.or_else(|| offer.accept());
        }
    }
    Ok(accepted)
}

/// One extension that a client offers.
struct Offer<'a> {
    extension: &'a str,
    parameters: Vec<(&'a str, Option<Cow<'a, str>>)>,
}

impl Offer<'_> {
    /// Returns the answer that accepts it. An offer with an unknown parameter, one that comes twice or one with an invalid value is
    /// declined (RFC 7692 §7.1).
    fn accept(&self) -> Option<String> {
        if self.extension != EXTENSION {
            return None;
        }
        let mut limits_server_window = false;
        for (index, (name, value)) in self.parameters.iter().enumerate() {
            if self.parameters[..index].iter().any(|(earlier, _)| earlier == name) {
                return None;
            }
            match (*name, value) {
                // Both are in every answer.
                (SERVER_NO_CONTEXT_TAKEOVER | CLIENT_NO_CONTEXT_TAKEOVER, None) => {}
                (SERVER_MAX_WINDOW_BITS, Some(bits)) if window_bits(bits)? >= WINDOW_BITS => {
                    limits_server_window = true
                }
                // The inflater has the largest window.
                (CLIENT_MAX_WINDOW_BITS, None) => {}
                (CLIENT_MAX_WINDOW_BITS, Some(bits)) => drop(window_bits(bits)?),
                _ => return None,
            }
        }
        let mut answer = format!("{EXTENSION}; {SERVER_NO_CONTEXT_TAKEOVER}; {CLIENT_NO_CONTEXT_TAKEOVER}");
        if limits_server_window {
            answer.push_str(&format!("; {SERVER_MAX_WINDOW_BITS}={WINDOW_BITS}"));
        }
        Some(answer)
    }
}

/// Parses the base-2 logarithm of a window: 8 to 15, without leading zeros (RFC 7692 §7.1.2.1).
fn window_bits(value: &str) -> Option<u8> {
    let bits: u8 = value.parse().ok()?;
    ((8..=15).contains(&bits) && value == bits.to_string()).then_some(bits)
}

/// The unread rest of a header. Its grammar is a list (RFC 7230 §7) of a token with parameters (RFC 6455 §9.1).
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    /// Parses the next offer; `None` at the end. Empty elements of the list are skipped.
    fn next_offer(&mut self) -> Result<Option<Offer<'a>>, MalformedExtensions> {
        loop {
            self.skip_space();
            if self.0.is_empty() {
                return Ok(None);
            }
            if !self.skip(',') {
                break;
            }
        }
        let mut offer = Offer { extension: self.token()?, parameters: Vec::new() };
        while self.skip(';') {
            let name = self.token()?;
            let value = if self.skip('=') { Some(self.value()?) } else { None };
            if offer.parameters.len() <= PARAMETERS {
                offer.parameters.push((name, value));
            }
        }
        if self.0.is_empty() || self.skip(',') { Ok(Some(offer)) } else { Err(MalformedExtensions) }
    }

    fn skip_space(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t']);
    }

    /// Skips this character, and space around it, if it comes next.
    fn skip(&mut self, character: char) -> bool {
        self.skip_space();
        let rest = self.0.strip_prefix(character);
        if let Some(rest) = rest {
            self.0 = rest;
            self.skip_space();
        }
        rest.is_some()
    }

    fn token(&mut self) -> Result<&'a str, MalformedExtensions> {
        let length = self.0.find(|character| !is_token_character(character)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(length);
        self.0 = rest;
        if token.is_empty() { Err(MalformedExtensions) } else { Ok(token) }
    }

    /// Parses a token, or a quoted string whose content is one.
    fn value(&mut self) -> Result<Cow<'a, str>, MalformedExtensions> {
        let Some(quoted) = self.0.strip_prefix('"') else { return self.token().map(Cow::Borrowed) };
        let (mut value, mut characters) = (String::new(), quoted.chars());
        loop {
            match characters.next().ok_or(MalformedExtensions)? {
                '"' => break,
                '\\' => value.push(characters.next().ok_or(MalformedExtensions)?),
                character => value.push(character),
            }
        }
        self.0 = characters.as_str();
        let is_token = !value.is_empty() && value.chars().all(is_token_character);
        if is_token { Ok(Cow::Owned(value)) } else { Err(MalformedExtensions) }
    }
}

/// Returns whether a token may contain the character (RFC 7230 §3.2.6).
fn is_token_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCEPTED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    const WITH_WINDOW: &str =
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=12";

    fn answer(headers: &[&str]) -> Result<Option<String>, MalformedExtensions> {
        negotiate(headers.iter().map(|header| header.as_bytes()))
    }

    #[test]
    fn offers_of_usual_clients_are_accepted() {
        for (client, offer, expected) in [
            ("Chromium, ws", "permessage-deflate; client_max_window_bits", ACCEPTED),
            ("Firefox, Safari", "permessage-deflate", ACCEPTED),
            ("gorilla", "permessage-deflate; server_no_context_takeover; client_no_context_takeover", ACCEPTED),
            ("websockets", "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12", WITH_WINDOW),
            ("quoted", "permessage-deflate;server_max_window_bits=\"15\";client_max_window_bits=\"\\8\"", WITH_WINDOW),
            ("spaces", " permessage-deflate \t;  client_max_window_bits = 9 ,", ACCEPTED),
        ] {
            assert_eq!(answer(&[offer]).unwrap().as_deref(), Some(expected), "{client}");
        }
    }

    #[test]
    fn first_offer_that_can_be_met_is_accepted() {
        for headers in [
            &["permessage-deflate; server_max_window_bits=9, permessage-deflate"][..],
            &["permessage-deflate; server_max_window_bits=9", "permessage-deflate; client_max_window_bits"],
            &["x-webkit-deflate-frame, permessage-bzip2; level=\"9\"", ", ,permessage-deflate"],
            &["permessage-deflate, permessage-deflate; server_max_window_bits=12"],
        ] {
            assert_eq!(answer(headers).unwrap().as_deref(), Some(ACCEPTED), "{headers:?}");
        }
    }

    #[test]
    fn offer_that_cannot_be_met_is_declined() {
        for parameters in [
            "server_max_window_bits=11",
            "server_max_window_bits=8",
            "server_max_window_bits=7",
            "server_max_window_bits=16",
            "server_max_window_bits=012",
            "server_max_window_bits=+12",
            "server_max_window_bits=268",
            "server_max_window_bits",
            "server_max_window_bits=12; server_max_window_bits=12",
            "client_max_window_bits=7",
            "client_max_window_bits=x",
            "client_max_window_bits; client_max_window_bits=10",
            "server_no_context_takeover=1",
            "client_no_context_takeover=\"1\"",
            "client_no_context_takeover; client_no_context_takeover",
            "unknown",
            "unknown=1",
            "Server_no_context_takeover",
        ] {
            assert_eq!(answer(&[&format!("permessage-deflate; {parameters}")]), Ok(None), "{parameters}");
        }
        assert_eq!(answer(&[]), Ok(None));
        assert_eq!(answer(&["", " , "]), Ok(None));
        assert_eq!(answer(&["permessage-deflated, deflate"]), Ok(None));
    }

    #[test]
    fn malformed_header_is_refused() {
        for header in [
            ";",
            "permessage-deflate;",
            "permessage-deflate; =1",
            "permessage-deflate; client_max_window_bits=",
            "permessage-deflate; client_max_window_bits=\"\"",
            "permessage-deflate; client_max_window_bits=\"10",
            "permessage-deflate; client_max_window_bits=\"10\\",
            "permessage-deflate; client_max_window_bits=\"1 0\"",
            "permessage-deflate; client_max_window_bits=\"10\"x",
            "permessage-deflate client_max_window_bits",
            "permessage/deflate",
            "permessage-deflate, ä",
            "\"permessage-deflate\"",
        ] {
            assert_eq!(answer(&[header]), Err(MalformedExtensions), "{header}");
            assert_eq!(answer(&["permessage-deflate", header]), Err(MalformedExtensions), "{header}");
        }
        assert_eq!(negotiate([&b"permessage-deflate\xff"[..]]), Err(MalformedExtensions));
    }
}
