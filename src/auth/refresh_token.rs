//! Refresh tokens of the login, which are opaque to clients. A refresh token contains its login, how often that login has been
//! refreshed, and a MAC. So the broker keeps no token, a forged one costs no call of the broker, a spent one is recognised
//! however old it is, and a refresh that is repeated because its reply was lost leads to the same token. Pure.

use aws_lc_rs::hmac::{Key, Tag, sign, verify};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use super::derived_key::derive_key;
use crate::{config::Secret, revocation::LoginId};

/// How each begins, so that scanners for leaked secrets find them.
const PREFIX: &str = "wcr_";
/// Maximum length of one.
const MAX_BYTES: usize = 128;

/// The content of a refresh token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshToken {
    /// The login.
    pub login: LoginId,
    /// How often it had been refreshed when the token was made.
    pub generation: u32,
}

/// Makes refresh tokens and reads them.
pub struct RefreshTokens {
    key: Key,
}

impl RefreshTokens {
    /// Takes the secret that signs the tokens of the login.
    pub fn new(secret: &Secret) -> Self {
        // A key of its own: no signature of a JWT is a MAC of a refresh token.
        Self { key: derive_key(secret, "wardcast refresh token") }
    }

    /// Returns the text of a refresh token.
    pub fn encode(&self, login: &LoginId, generation: u32) -> String {
        let content = format!("{PREFIX}{}.{generation}", login.as_str());
        let mac = BASE64_URL_SAFE_NO_PAD.encode(self.mac(&content));
        format!("{content}.{mac}")
    }

    /// Reads a refresh token; `None` if this installation has not made it.
    pub fn decode(&self, text: &str) -> Option<RefreshToken> {
        let (content, mac) = text.rsplit_once('.').filter(|_| text.len() <= MAX_BYTES)?;
        let mac = BASE64_URL_SAFE_NO_PAD.decode(mac).ok()?;
        verify(&self.key, content.as_bytes(), &mac).ok()?;
        let (login, generation) = content.strip_prefix(PREFIX)?.split_once('.')?;
        Some(RefreshToken { login: LoginId::parse(login)?, generation: generation.parse().ok()? })
    }

    fn mac(&self, content: &str) -> Tag {
        sign(&self.key, content.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::hmac::HMAC_SHA256;

    use super::*;

    /// A signature by the secret, such as that of a JWT, is not the MAC of a refresh token.
    #[test]
    fn signature_by_the_secret_itself_makes_no_refresh_token() {
        let secret = "0123456789abcdef0123456789abcdef";
        let content = format!("{PREFIX}{}.0", LoginId::random("ann").unwrap().as_str());
        let signature = sign(&Key::new(HMAC_SHA256, secret.as_bytes()), content.as_bytes());
        let signed = format!("{content}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature));
        assert_eq!(RefreshTokens::new(&Secret::new(secret)).decode(&signed), None);
    }

    #[test]
    fn forged_cut_or_changed_refresh_token_is_not_read() {
        let tokens = RefreshTokens::new(&Secret::new("0123456789abcdef0123456789abcdef"));
        let login = LoginId::random("ann").unwrap();
        let text = tokens.encode(&login, 7);
        assert_eq!(tokens.decode(&text), Some(RefreshToken { login: login.clone(), generation: 7 }));
        assert_eq!(tokens.encode(&login, 7), text, "the same refresh leads to the same token");
        let other_key = RefreshTokens::new(&Secret::new("0123456789abcdef0123456789abcdeg"));
        assert_eq!(other_key.decode(&text), None);
        let (content, mac) = text.rsplit_once('.').unwrap();
        let other_login = LoginId::random("ann").unwrap();
        for bad in [
            String::new(),
            ".".to_owned(),
            "..".to_owned(),
            content.to_owned(),
            format!("{content}."),
            format!("{content}.{}", &mac[..42]),
            format!("{content}.{mac}="),
            format!("{content}.{mac}A"),
            text.replace(".7.", ".8."),
            text.replace(".7.", ".07."),
            text.replace(PREFIX, ""),
            text.replace(login.as_str(), other_login.as_str()),
            format!("{text}{}", "A".repeat(100)),
            format!("{content}.{}", "A".repeat(43)),
        ] {
            assert_eq!(tokens.decode(&bad), None, "{bad}");
        }
    }
}
