//! Keys that are derived from a configured secret, one for each purpose, so that what is made for one purpose is not valid for another.

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};

use crate::config::Secret;

/// Derives the key for a purpose.
pub(super) fn derive_key(secret: &Secret, purpose: &str) -> Key {
    let derived = sign(&Key::new(HMAC_SHA256, secret.expose().as_bytes()), purpose.as_bytes());
    Key::new(HMAC_SHA256, derived.as_ref())
}
