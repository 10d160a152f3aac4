//! The password hashes that are verified for unknown names. A login with an unknown name takes as long as one with a known name and a
//! wrong password, also if the hashes of the users differ in cost.

use aws_lc_rs::hmac;

use super::{UsersFileError, hash_password};
use crate::{auth::derived_key::derive_key, config::Config};

/// The password of the decoy hash if there are no users.
pub(super) const DECOY_PASSWORD: &str = "a password that no user has";

/// Assigns a decoy hash to each name. The decoys are the hashes of the users: hashes from elsewhere may take longer than those that the
/// hub makes, so unknown names need hashes of the same costs, in the same proportions. A keyed hash of the name chooses: a name has the
/// same decoy each time and on all instances, and clients cannot compute which.
pub(super) struct Decoys {
    /// Sorted, so that hashes of the same cost are neighbours: when a user is added, few names get a decoy of another cost. Not empty.
    hashes: Vec<String>,
    key: hmac::Key,
}

impl Decoys {
    /// Creates decoys from the hashes of all users.
    ///
    /// # Errors
    /// If there are no users, and the system has no randomness.
    pub(super) fn new(hashes: impl Iterator<Item = String>, key: hmac::Key) -> Result<Self, UsersFileError> {
        let mut hashes: Vec<String> = hashes.collect();
        if hashes.is_empty() {
            hashes.push(hash_password(DECOY_PASSWORD)?);
        }
        hashes.sort_unstable();
        Ok(Self { hashes, key })
    }

    /// Derives the key from the secret of the login, which all instances share.
    pub(super) fn key(config: &Config) -> hmac::Key {
        derive_key(config.login_secret(), "wardcast decoy password")
    }

    /// Returns the hash to verify for this name if no user has it.
    pub(super) fn of(&self, name: &str) -> &str {
        let mac = hmac::sign(&self.key, name.as_bytes());
        let random = mac.as_ref().iter().take(8).fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
        // random / 2^64 of the number of hashes: an even choice, below that number.
        let index = (u128::from(random) * self.hashes.len() as u128) >> 64;
        &self.hashes[index as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn decoys(users: &[(&str, usize)]) -> Decoys {
        let hashes = users.iter().flat_map(|(cost, count)| (0..*count).map(move |number| format!("{cost}${number}")));
        Decoys::new(hashes, Decoys::key(&Config::default())).unwrap()
    }

    fn is_costly(decoys: &Decoys, name: &str) -> bool {
        decoys.of(name).starts_with("t=9")
    }

    #[test]
    fn decoys_of_unknown_names_have_the_costs_of_the_file_and_stay_the_same() {
        let (one, again) = (decoys(&[("t=2", 3), ("t=9", 1)]), decoys(&[("t=9", 1), ("t=2", 3)]));
        let names: Vec<String> = (0..400).map(|number| format!("unknown {number}")).collect();
        let count = names.iter().filter(|name| is_costly(&one, name)).count();
        assert!((60..140).contains(&count), "a quarter of them: {count}");
        assert!(names.iter().all(|name| one.of(name) == again.of(name)), "after the file is read again");
        let more = decoys(&[("t=2", 4), ("t=9", 1)]);
        let changed = names.iter().filter(|name| is_costly(&one, name) != is_costly(&more, name)).count();
        assert!(changed < 60, "one user more changes {changed}");
        let mut config = Config::default();
        config.login.key = Secret::new("another secret of thirty-two bytes");
        let other = Decoys { key: Decoys::key(&config), ..decoys(&[("t=2", 3), ("t=9", 1)]) };
        assert!(names.iter().any(|name| is_costly(&one, name) != is_costly(&other, name)), "the key decides");
    }
}
