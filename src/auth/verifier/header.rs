//! The three parts of a token and its header (RFC 7515 §4.1, §7.1). Reading is strict: a header that asks for more than a
//! signature by a configured key is refused (RFC 7797, RFC 8725 §3.5 and §3.10).

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::value::RawValue;

use crate::{
    auth::TokenError,
    config::MAX_KEY_ID_BYTES,
    json::{JsonMembers, is_too_deep},
};

/// The members that are read (RFC 7515 §4.1).
pub(in crate::auth) const HEADER_MEMBERS: [&str; 3] = ["alg", "kid", "typ"];
/// Maximum number of header members. The hub's own tokens have two or three.
const MAX_MEMBERS: usize = 16;
/// Members that are refused with any value, because they ask for something that the verifier never does: critical extensions,
/// keys that come with the token, encryption, compression, a nested token.
const REFUSED_MEMBERS: [&str; 9] = ["crit", "jku", "jwk", "x5u", "x5c", "enc", "zip", "cty", "b64"];

/// The types of tokens that may open connections (RFC 7519 §5.1, RFC 9068 §2.1). Providers sign others with the same keys, like
/// `logout+jwt` (RFC 8725 §3.11).
const DEFAULT_TYPES: [&str; 2] = ["jwt", "at+jwt"];
/// The types of logout tokens (OpenID Connect Back-Channel Logout 1.0 §2.4). `JWT` says no more than no type at all; providers that
/// are older than the final specification send it.
const LOGOUT_TYPES: [&str; 2] = ["logout+jwt", "jwt"];

/// The parts of a token, still encoded.
pub(super) struct TokenParts<'a> {
    pub(super) header: &'a str,
    pub(super) payload: &'a str,
    pub(super) signature: &'a str,
    /// What is signed: header and payload exactly as received.
    pub(super) message: &'a str,
}

impl<'a> TokenParts<'a> {
    pub(super) fn split(token: &'a str) -> Option<Self> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, payload) = message.split_once('.')?;
        (!payload.contains('.')).then_some(Self { header, payload, signature, message })
    }
}

/// Decodes base64url without padding and without spare bits (RFC 7515 §2), so that each part has exactly one spelling.
pub(super) fn decode_part(part: &str) -> Result<Vec<u8>, TokenError> {
    BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::NotBase64Url)
}

/// The header members that the verifier uses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct JoseHeader {
    pub(super) alg: String,
    pub(super) kid: Option<String>,
    pub(super) typ: Option<String>,
}

impl JoseHeader {
    /// Parses the decoded header.
    pub(super) fn parse(json: &[u8]) -> Result<Self, TokenError> {
        if is_too_deep(json) {
            return Err(TokenError::HeaderTooDeep);
        }
        // serde_json does not check the encoding of text that it ignores.
        let text = std::str::from_utf8(json).map_err(|_| TokenError::HeaderNotUtf8)?;
        let header = Self::from_text(text).ok_or(TokenError::MalformedHeader)?;
        if header.kid.as_ref().is_some_and(|kid| kid.len() > MAX_KEY_ID_BYTES) {
            return Err(TokenError::KeyIdTooLong);
        }
        Ok(header)
    }

    fn from_text(text: &str) -> Option<Self> {
        let JsonMembers(members) = serde_json::from_str::<JsonMembers<&RawValue>>(text).ok()?;
        if members.len() > MAX_MEMBERS {
            return None;
        }
        let (mut alg, mut header) = (None, Self::default());
        for (at, (name, value)) in members.iter().enumerate() {
            // Duplicates of unknown members are refused, too: two readers of the token may disagree about which one counts.
            if REFUSED_MEMBERS.contains(&&**name) || members[..at].iter().any(|(earlier, _)| earlier == name) {
                return None;
            }
            let text = || serde_json::from_str::<String>(value.get()).ok();
            match &**name {
                "alg" => alg = Some(text()?),
                "kid" => header.kid = Some(text()?),
                "typ" => header.typ = Some(text()?),
                _ => {}
            }
        }
        Some(Self { alg: alg?, ..header })
    }

    /// Returns whether `typ` is the expected media type, or without an expected one a type of [`DEFAULT_TYPES`] or absent.
    pub(super) fn is_of_type(&self, expected: Option<&str>) -> bool {
        match (&self.typ, expected) {
            (None, expected) => expected.is_none(),
            (Some(own), Some(expected)) => short_type(own) == short_type(expected),
            (Some(own), None) => DEFAULT_TYPES.contains(&short_type(own).as_str()),
        }
    }

    /// Returns whether `typ` is a type of [`LOGOUT_TYPES`] or absent.
    pub(super) fn is_of_logout_type(&self) -> bool {
        self.typ.as_ref().is_none_or(|typ| LOGOUT_TYPES.contains(&short_type(typ).as_str()))
    }
}

/// Returns a media type in lower case and without `application/`, which make no difference (RFC 7515 §4.1.9).
fn short_type(typ: &str) -> String {
    let typ = typ.to_ascii_lowercase();
    typ.strip_prefix("application/").map(str::to_owned).unwrap_or(typ)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn typ_is_compared_without_case_or_application_prefix() {
        let is_of_type = |own: &str, typ: Option<&str>| {
            let json = format!(r#"{{"alg":"HS256","typ":"{own}"}}"#);
            JoseHeader::parse(json.as_bytes()).expect("a header").is_of_type(typ)
        };
        for own in ["at+jwt", "AT+JWT", "application/at+jwt", "Application/At+Jwt"] {
            assert!(is_of_type(own, Some("at+jwt")) && is_of_type(own, Some("application/AT+jwt")), "{own}");
            assert!(is_of_type(own, None), "{own}");
        }
        for own in ["JWT", "at", "at+jwt2", "text/at+jwt", ""] {
            assert!(!is_of_type(own, Some("at+jwt")), "{own}");
        }
        let without = JoseHeader::parse(br#"{"alg":"HS256"}"#).expect("a header");
        assert!(!without.is_of_type(Some("at+jwt")) && without.is_of_type(None));
    }

    #[test]
    fn without_a_configured_typ_only_jwt_and_access_tokens_pass() {
        let is_allowed = |typ: &str| {
            let json = format!(r#"{{"alg":"HS256","typ":"{typ}"}}"#);
            JoseHeader::parse(json.as_bytes()).expect("a header").is_of_type(None)
        };
        for typ in ["JWT", "jwt", "application/jwt", "at+jwt", "application/at+jwt"] {
            assert!(is_allowed(typ), "{typ}");
        }
        for typ in ["logout+jwt", "secevent+jwt", "dpop+jwt", "JWS", "JOSE", "id+jwt", "", "application/", "x/jwt"] {
            assert!(!is_allowed(typ), "{typ}");
        }
    }

    #[test]
    fn logout_tokens_have_their_own_type_or_none() {
        let is_of_logout_type = |typ: &str| {
            let json = format!(r#"{{"alg":"HS256"{typ}}}"#);
            JoseHeader::parse(json.as_bytes()).expect("a header").is_of_logout_type()
        };
        for typ in ["", r#","typ":"logout+jwt""#, r#","typ":"application/Logout+JWT""#, r#","typ":"JWT""#] {
            assert!(is_of_logout_type(typ), "{typ}");
        }
        for typ in ["at+jwt", "secevent+jwt", "dpop+jwt", "logout", "", "x/logout+jwt"] {
            assert!(!is_of_logout_type(&format!(r#","typ":"{typ}""#)), "{typ}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in r#"[{}\[\]":,a-z\\0-9 ]{0,80}"#) {
            let _ = (JoseHeader::parse(&bytes), JoseHeader::parse(text.as_bytes()));
        }

        #[test]
        fn unknown_header_members_are_ignored(
            alg in "[A-Za-z0-9]{1,8}",
            kid in proptest::option::of("\\PC{0,40}"),
            others in proptest::collection::btree_map("[A-Z]{1,8}", any::<(i32, String)>(), 0..8),
        ) {
            let mut json = serde_json::Map::new();
            json.extend(others.into_iter().map(|(name, value)| (name, serde_json::json!({"v": value}))));
            json.insert("alg".into(), alg.clone().into());
            json.extend(kid.clone().map(|kid| ("kid".to_owned(), kid.into())));
            let json = serde_json::Value::Object(json).to_string();
            let header = JoseHeader::parse(json.as_bytes()).expect("a header");
            prop_assert_eq!(header, JoseHeader { alg, kid, typ: None });
        }
    }
}
