//! A token's three parts and its header (RFC 7515 §4.1, §7.1), read strictly: what asks for more than a signature by a key
//! that we chose is refused (RFC 7797, RFC 8725 §3.5 and §3.10).

use std::{borrow::Cow, fmt};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, Visitor},
};

use super::TokenError;
use crate::{
    auth::json::{JsonText, is_too_deep, utf8},
    config::MAX_KEY_ID_BYTES,
};

/// Members of a header; ours has two or three.
const MAX_MEMBERS: usize = 16;
/// Members that, whatever their value, want something that nobody gets here: extensions that must be understood, keys of
/// the token's own, encryption, compression, another token inside.
const REFUSED_MEMBERS: [&str; 9] = ["crit", "jku", "jwk", "x5u", "x5c", "enc", "zip", "cty", "b64"];

/// The parts of a token, still encoded.
pub(super) struct TokenParts<'a> {
    pub(super) header: &'a str,
    pub(super) payload: &'a str,
    pub(super) signature: &'a str,
    /// What is signed: header and payload, as they came.
    pub(super) message: &'a str,
}

impl<'a> TokenParts<'a> {
    pub(super) fn split(token: &'a str) -> Option<Self> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, payload) = message.split_once('.')?;
        (!payload.contains('.')).then_some(Self { header, payload, signature, message })
    }
}

/// Base64url without padding and without bits to spare (RFC 7515 §2): each part has one spelling.
pub(super) fn decode_part(part: &str) -> Result<Vec<u8>, TokenError> {
    BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Invalid("not base64url"))
}

/// What is taken from a header.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct JoseHeader<'a> {
    pub(super) alg: Cow<'a, str>,
    pub(super) kid: Option<Cow<'a, str>>,
    pub(super) typ: Option<Cow<'a, str>>,
}

impl<'a> JoseHeader<'a> {
    /// Reads the decoded bytes.
    pub(super) fn read(json: &'a [u8]) -> Result<Self, TokenError> {
        if is_too_deep(json) {
            return Err(TokenError::Invalid("header nested too deep"));
        }
        let text = utf8(json).ok_or(TokenError::Invalid("header that is not UTF-8"))?;
        let header: Self = serde_json::from_str(text).map_err(|_| TokenError::Invalid("header"))?;
        if header.kid.as_ref().is_some_and(|kid| kid.len() > MAX_KEY_ID_BYTES) {
            return Err(TokenError::Invalid("kid too long"));
        }
        Ok(header)
    }

    /// Whether `typ` is this, however it is spelled (RFC 7515 §4.1.9): without case, with or without `application/`.
    pub(super) fn has_type(&self, typ: &str) -> bool {
        let short = |typ: &str| {
            let typ = typ.to_ascii_lowercase();
            typ.strip_prefix("application/").map(str::to_owned).unwrap_or(typ)
        };
        self.typ.as_ref().is_some_and(|own| short(own) == short(typ))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for JoseHeader<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = JoseHeader<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JOSE header")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<JoseHeader<'de>, A::Error> {
        let (mut alg, mut kid, mut typ) = (None, None, None);
        let mut seen: Vec<Cow<'de, str>> = Vec::new();
        while let Some(JsonText(name)) = members.next_key()? {
            // Also of those that are passed over: two readers may take two of them for the one that counts.
            if seen.contains(&name) || seen.len() == MAX_MEMBERS || REFUSED_MEMBERS.contains(&&*name) {
                return Err(A::Error::custom("a member that is not taken"));
            }
            match &*name {
                "alg" => alg = Some(members.next_value::<JsonText<'de>>()?.0),
                "kid" => kid = Some(members.next_value::<JsonText<'de>>()?.0),
                "typ" => typ = Some(members.next_value::<JsonText<'de>>()?.0),
                _ => {
                    members.next_value::<IgnoredAny>()?;
                }
            }
            seen.push(name);
        }
        let alg = alg.ok_or_else(|| A::Error::missing_field("alg"))?;
        Ok(JoseHeader { alg, kid, typ })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn typ_is_compared_without_case_or_application_prefix() {
        let has_type = |own: &str, typ: &str| {
            let json = format!(r#"{{"alg":"HS256","typ":"{own}"}}"#);
            JoseHeader::read(json.as_bytes()).expect("a header").has_type(typ)
        };
        for own in ["at+jwt", "AT+JWT", "application/at+jwt", "Application/At+Jwt"] {
            assert!(has_type(own, "at+jwt") && has_type(own, "application/AT+jwt"), "{own}");
        }
        for own in ["JWT", "at", "at+jwt2", "text/at+jwt", ""] {
            assert!(!has_type(own, "at+jwt"), "{own}");
        }
        assert!(!JoseHeader::read(br#"{"alg":"HS256"}"#).expect("a header").has_type("at+jwt"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in r#"[{}\[\]":,a-z\\0-9 ]{0,80}"#) {
            let _ = (JoseHeader::read(&bytes), JoseHeader::read(text.as_bytes()));
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
            let header = JoseHeader::read(json.as_bytes()).expect("a header");
            prop_assert_eq!(header, JoseHeader { alg: alg.into(), kid: kid.map(Into::into), typ: None });
        }
    }
}
