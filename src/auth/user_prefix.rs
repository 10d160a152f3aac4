//! The user that a token of one of several issuers names: no issuer can choose a `sub` that makes its user one of another issuer.

use super::TokenError;
use crate::{
    config::{KeyRules, UserPrefixes},
    publication::is_valid_user,
};

impl UserPrefixes {
    /// Returns the name of the user with this `sub` in the tokens of a key; empty for a token without a user.
    ///
    /// # Errors
    /// [`TokenError::InvalidUser`], or [`TokenError::ForeignUser`] if the name belongs to keys with a longer prefix.
    pub fn user(&self, sub: String, rules: &KeyRules) -> Result<String, TokenError> {
        if sub.is_empty() {
            return Ok(sub);
        }
        let prefix = &rules.user_prefix;
        let user = if prefix.is_empty() { sub } else { format!("{prefix}{sub}") };
        if !is_valid_user(&user) {
            return Err(TokenError::InvalidUser);
        }
        if self.is_foreign(&user, rules) {
            return Err(TokenError::ForeignUser);
        }
        Ok(user)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::KeyPurpose;

    fn rules(prefix: &str, purpose: KeyPurpose) -> KeyRules {
        KeyRules { user_prefix: prefix.to_owned(), purpose, ..KeyRules::default() }
    }

    fn prefixes(prefixes: &[&str]) -> UserPrefixes {
        let mut auth = crate::config::Config::default().auth;
        let entry = |prefix: &&str| {
            toml::from_str(&format!("id = \"k\"\nalgorithm = \"HS256\"\nfile = \"f\"\nuser_prefix = {prefix:?}"))
        };
        auth.keys = prefixes.iter().map(entry).collect::<Result<_, _>>().expect("entries of auth.keys");
        UserPrefixes::new(&auth)
    }

    #[test]
    fn a_user_belongs_to_the_longest_prefix_that_its_name_begins_with() {
        let prefixes = prefixes(&["a:", "a:b:", "b:"]);
        let user = |prefix: &str, sub: &str| prefixes.user(sub.to_owned(), &rules(prefix, KeyPurpose::Any));
        assert_eq!(user("", "5"), Ok("5".to_owned()));
        assert_eq!(user("a:", "5"), Ok("a:5".to_owned()));
        assert_eq!(user("a:b:", "5"), Ok("a:b:5".to_owned()));
        assert_eq!(user("b:", "a:5"), Ok("b:a:5".to_owned()));
        for (prefix, sub) in [("", "a:5"), ("", "b:"), ("a:", "b:5"), ("", "a:b:5"), ("a:", "b:")] {
            assert_eq!(user(prefix, sub), Err(TokenError::ForeignUser), "{prefix:?} {sub:?}");
        }
        let of_any = prefixes.user("a:5".to_owned(), &rules("", KeyPurpose::Subscription));
        assert_eq!(of_any, Ok("a:5".to_owned()), "a key for subscription tokens only");
    }

    #[test]
    fn prefix_of_all_other_keys_belongs_to_them() {
        let mut auth = crate::config::Config::default().auth;
        auth.user_prefix = Some("id:".to_owned());
        auth.keys =
            vec![toml::from_str("id = \"k\"\nalgorithm = \"HS256\"\nfile = \"f\"\nuser_prefix = \"i\"").unwrap()];
        let prefixes = UserPrefixes::new(&auth);
        let user = |prefix: &str, sub: &str| prefixes.user(sub.to_owned(), &rules(prefix, KeyPurpose::Any));
        assert_eq!(user("id:", "5"), Ok("id:5".to_owned()), "of auth.hmac_secret");
        assert_eq!(user("i", "d:5"), Err(TokenError::ForeignUser));
    }

    #[test]
    fn a_token_without_a_user_gets_none_from_a_prefix() {
        assert_eq!(prefixes(&["a:"]).user(String::new(), &rules("a:", KeyPurpose::Any)), Ok(String::new()));
    }

    #[test]
    fn prefix_and_sub_together_have_the_length_of_a_user() {
        let prefixes = prefixes(&["a:"]);
        assert!(prefixes.user("x".repeat(253), &rules("a:", KeyPurpose::Any)).is_ok());
        assert_eq!(prefixes.user("x".repeat(254), &rules("a:", KeyPurpose::Any)), Err(TokenError::InvalidUser));
    }

    proptest! {
        #[test]
        fn keys_with_different_prefixes_never_name_the_same_user(
            set in proptest::collection::btree_set("[ab:]{1,3}", 2..5),
            user in "[ab:]{2,6}",
        ) {
            let set: Vec<&str> = set.iter().map(String::as_str).collect();
            let prefixes = prefixes(&set);
            let can_name = |prefix: &&str| {
                let sub = user.strip_prefix(prefix).filter(|sub| !sub.is_empty());
                sub.is_some_and(|sub| prefixes.user(sub.to_owned(), &rules(prefix, KeyPurpose::Any)).is_ok())
            };
            prop_assert!(set.iter().copied().chain([""]).filter(can_name).count() <= 1);
        }
    }
}
