//! The name of a login: the `sid` of all its tokens. It begins with a tag of the user, with which a revocation of the login, or of all
//! tokens of the user, finds where the broker keeps the login.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

/// Bytes of the hash of a user that its tag has, and characters of the tag.
const TAG_BYTES: usize = 12;
const TAG_CHARACTERS: usize = 16;
/// Random bytes of a login, and characters of its name.
const RANDOM_BYTES: usize = 16;
const CHARACTERS: usize = TAG_CHARACTERS + 22;
/// Between a login and the random part of the `jti` of one of its tokens.
const JTI_SEPARATOR: char = '.';

/// One login of a user, with all tokens that it is refreshed to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LoginId(String);

impl LoginId {
    /// Creates the name of a new login; `None` if the system has no randomness.
    pub fn random(user: &str) -> Option<Self> {
        let mut random = [0; RANDOM_BYTES];
        getrandom::fill(&mut random).ok()?;
        Some(Self(user_tag(user) + &BASE64_URL_SAFE_NO_PAD.encode(random)))
    }

    /// Reads a name; `None` if it is not of this form.
    pub fn parse(text: &str) -> Option<Self> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        (text.len() == CHARACTERS && text.bytes().all(is_allowed)).then(|| Self(text.to_owned()))
    }

    /// Returns the login of the token with this `jti`.
    pub fn of_jti(jti: &str) -> Option<Self> {
        Self::parse(jti.split_once(JTI_SEPARATOR)?.0)
    }

    /// Returns the `jti` of one token of the login.
    pub fn jti(&self, random: &str) -> String {
        format!("{}{JTI_SEPARATOR}{random}", self.0)
    }

    /// Joins a tag and the part of a name behind it.
    pub fn join(user_tag: &str, own_part: &str) -> Option<Self> {
        Self::parse(&format!("{user_tag}{own_part}"))
    }

    /// Returns the tag of the user, and the part that no other login of the user has.
    pub fn split(&self) -> (&str, &str) {
        self.0.split_at(TAG_CHARACTERS)
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns the tag of a user. Different users have different ones, as far as anyone can find out.
pub fn user_tag(user: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(&digest(&SHA256, user.as_bytes()).as_ref()[..TAG_BYTES])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_is_found_by_its_sid_its_jtis_and_its_user() {
        let (one, other) = (LoginId::random("ann").unwrap(), LoginId::random("ann").unwrap());
        assert_ne!(one, other);
        assert_eq!(LoginId::parse(one.as_str()), Some(one.clone()));
        assert_eq!(LoginId::of_jti(&one.jti("x")), Some(one.clone()));
        let (tag, own_part) = one.split();
        assert_eq!((tag, LoginId::join(tag, own_part)), (&*user_tag("ann"), Some(one.clone())));
        assert_ne!(user_tag("ann"), user_tag("bob"));
        for bad in
            ["", "a", &one.as_str()[1..], &format!("{}a", one.as_str()), &one.as_str().replace(tag, "a b{}:*cdefghijk")]
        {
            assert_eq!(LoginId::parse(bad), None, "{bad:?}");
            assert_eq!(LoginId::of_jti(bad), None, "{bad:?}");
        }
    }
}
