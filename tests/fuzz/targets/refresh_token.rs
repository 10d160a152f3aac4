//! Refresh tokens: what is accepted was made with the secret, and has one text.

use std::sync::LazyLock;

use wardcast::{
    auth::{RefreshToken, RefreshTokens},
    config::Secret,
    revocation::LoginId,
};

use super::Random;

static OWN: LazyLock<RefreshTokens> =
    LazyLock::new(|| RefreshTokens::new(&Secret::new("the secret of the fuzz targets: 32")));
static OTHER: LazyLock<RefreshTokens> =
    LazyLock::new(|| RefreshTokens::new(&Secret::new("the secret of another hub: 32 bytes")));

/// A text that a client sends. Besides, its bytes choose a login, a number of refreshes, and a change of the token that they make.
pub fn refresh_token(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        if let Some(RefreshToken { login, generation }) = OWN.decode(text) {
            assert_eq!(OWN.encode(&login, generation), text);
        }
        if let Some(login) = LoginId::parse(text) {
            assert_eq!(login.as_str(), text);
        }
    }
    let mut random = Random::new(data.first().copied().unwrap_or_default());
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let character = |index: usize| char::from(alphabet[usize::from(*data.get(index).unwrap_or(&0)) % alphabet.len()]);
    let login = LoginId::parse(&(0..38).map(character).collect::<String>()).expect("a login");
    let generation = data.iter().rev().take(4).fold(0, |sum: u32, byte| sum << 8 | u32::from(*byte));
    let token = OWN.encode(&login, generation);
    assert_eq!(OWN.decode(&token), Some(RefreshToken { login, generation }));
    assert_eq!(OTHER.decode(&token), None, "of another installation");
    // A part of it is replaced by the input.
    let (from, to) = (random.below(token.len() + 1), random.below(token.len() + 1));
    let inserted = String::from_utf8_lossy(data);
    let altered = format!("{}{inserted}{}", &token[..from.min(to)], &token[from.max(to)..]);
    assert!(altered == token || OWN.decode(&altered).is_none(), "{altered:?}");
}
