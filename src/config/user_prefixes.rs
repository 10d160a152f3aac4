//! The names of users of several issuers: `user_prefix` and `sub`. A name belongs to the keys with the longest prefix that it
//! begins with.

use super::{AuthConfig, KeyPurpose, KeyRules};

/// The prefixes of all keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserPrefixes(Vec<String>);

impl UserPrefixes {
    /// Creates the prefixes of this configuration.
    pub fn new(auth: &AuthConfig) -> Self {
        let of_keys = auth.keys.iter().map(|key| auth.rules(Some(key)).user_prefix);
        let mut prefixes: Vec<String> = of_keys.chain([auth.rules(None).user_prefix]).collect();
        // The longest first.
        prefixes.sort_by(|one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        prefixes.dedup();
        Self(prefixes)
    }

    /// Returns whether tokens of a key must not name this user, because the name belongs to keys with a longer prefix. A key that
    /// only verifies subscription tokens opens no connections, and may name the users of any key.
    pub fn is_foreign(&self, user: &str, rules: &KeyRules) -> bool {
        let owner = self.0.iter().find(|prefix| user.starts_with(prefix.as_str()));
        rules.purpose != KeyPurpose::Subscription && owner.is_some_and(|owner| owner.len() > rules.user_prefix.len())
    }
}
