//! Decides which of several independent servers has a channel, by rendezvous hashing. The channel is on the server whose
//! address, hashed together with the name of the channel, gives the highest value. So all nodes agree without asking, the order
//! of the list does not matter, and a server that is added takes its equal share from each of the others; nothing else moves.
//! There is no I/O here.

use std::borrow::Cow;

use super::partition::{mix, stable_hash};

/// The servers of an installation, by the hashes of their addresses.
#[derive(Debug)]
pub(super) struct Placement {
    servers: Vec<u64>,
}

impl Placement {
    /// Creates the placement for servers at these addresses.
    pub(super) fn new<'a>(addresses: impl IntoIterator<Item = &'a str>) -> Self {
        Self { servers: addresses.into_iter().map(|address| stable_hash(&canonical(address))).collect() }
    }

    /// Returns a number that is the same on all nodes that find every channel on the same server.
    pub(super) fn fingerprint(&self) -> u64 {
        // One server has all channels, whatever it is called.
        if self.servers.len() < 2 { 0 } else { self.servers.iter().fold(0, |sum, server| sum ^ mix(*server)) }
    }

    /// Returns the index of the server for a text, usually the name of a channel. `None`: there is no server.
    pub(super) fn server_of(&self, text: &str) -> Option<usize> {
        if self.servers.len() < 2 {
            return self.servers.first().map(|_| 0);
        }
        let text = stable_hash(text);
        (0..self.servers.len()).max_by_key(|index| mix(self.servers[*index] ^ text))
    }
}

/// Returns an address as all nodes write it: the names of hosts do not depend on upper and lower case, and may end with a dot.
pub(super) fn canonical(address: &str) -> Cow<'_, str> {
    match address.rsplit_once(':') {
        Some((host, port)) if !address.starts_with('/') => {
            Cow::Owned(format!("{}:{port}", host.trim_end_matches('.').to_ascii_lowercase()))
        }
        _ => Cow::Borrowed(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESSES: [&str; 4] = ["redis-1:6379", "redis-2:6379", "10.0.0.7:6379", "/run/redis.sock"];

    fn owners<'a>(addresses: &[&'a str]) -> Vec<&'a str> {
        let placement = Placement::new(addresses.iter().copied());
        (0..20_000).map(|number| addresses[placement.server_of(&format!("chat:room-{number}")).unwrap()]).collect()
    }

    #[test]
    fn servers_get_equal_shares_and_the_order_of_the_list_does_not_matter() {
        let all = owners(&ADDRESSES);
        for address in ADDRESSES {
            let share = all.iter().filter(|owner| **owner == address).count();
            assert!((4_500..5_500).contains(&share), "{address}: {share} of 20000");
        }
        let mut reversed = ADDRESSES;
        reversed.reverse();
        assert_eq!(owners(&reversed), all);
    }

    #[test]
    fn only_channels_of_the_new_server_move_when_one_is_added() {
        let moved: Vec<_> = owners(&ADDRESSES[..3]).into_iter().zip(owners(&ADDRESSES)).collect();
        assert!(moved.iter().all(|(before, after)| before == after || *after == ADDRESSES[3]));
        let count = moved.iter().filter(|(before, after)| before != after).count();
        assert!((4_500..5_500).contains(&count), "{count} of 20000");
    }

    /// Nodes of another release must find the same servers.
    #[test]
    fn channels_keep_their_server_for_ever() {
        let placement = Placement::new(ADDRESSES);
        let found = ["news", "chat:1", "чат:日本 1", "a"].map(|channel| placement.server_of(channel));
        assert_eq!(found, [3, 3, 1, 0].map(Some));
        assert_eq!(Placement::new([]).server_of("news"), None);
        assert_eq!(Placement::new(["one"]).server_of("news"), Some(0));
    }

    #[test]
    fn fingerprint_differs_if_channels_are_found_on_different_servers() {
        let fingerprint = |addresses: &[&str]| Placement::new(addresses.iter().copied()).fingerprint();
        let usual = fingerprint(&["localhost:6379", "localhost:6380"]);
        assert_eq!(fingerprint(&["LOCALHOST:6380", "localhost.:6379"]), usual);
        for other in [["127.0.0.1:6379", "localhost:6380"], ["localhost:6379", "localhost:6381"]] {
            assert_ne!(fingerprint(&other), usual);
        }
        assert_ne!(fingerprint(&["localhost:6379", "localhost:6380", "localhost:6381"]), usual);
        assert_ne!(fingerprint(&["localhost:6379"]), usual);
        assert_eq!(fingerprint(&["localhost:6379"]), fingerprint(&["127.0.0.1:6379"]));
    }

    #[test]
    fn host_written_differently_has_the_same_channels() {
        let written = |addresses: [&str; 3]| {
            let placement = Placement::new(addresses);
            (0..1000).map(|number| placement.server_of(&format!("room-{number}"))).collect::<Vec<_>>()
        };
        let usual = written(["redis-1.example:6379", "redis-2.example:6379", "/run/Redis.sock"]);
        assert_eq!(written(["Redis-1.Example:6379", "redis-2.example.:6379", "/run/Redis.sock"]), usual);
        assert_ne!(written(["redis-1.example:6379", "redis-2.example:6379", "/run/redis.sock"]), usual);
    }
}
