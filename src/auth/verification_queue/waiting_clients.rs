//! The clients that wait for the verification of their token. Addresses take turns, and those that have sent many refused
//! tokens come last. Pure.

use std::collections::{HashMap, VecDeque};

use crate::address::ClientAddress;

/// Clients that wait, by address. `T` stands for one client.
pub(super) struct WaitingClients<T> {
    by_address: HashMap<ClientAddress, VecDeque<T>>,
    /// Each address of `by_address` is once in one of these.
    trusted: VecDeque<ClientAddress>,
    suspected: VecDeque<ClientAddress>,
    len: usize,
}

impl<T> Default for WaitingClients<T> {
    fn default() -> Self {
        Self { by_address: HashMap::new(), trusted: VecDeque::new(), suspected: VecDeque::new(), len: 0 }
    }
}

impl<T> WaitingClients<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a client, if there is room: for `max` clients, of which one address has at most half. Clients of the address that
    /// have stopped waiting (`has_left`) make room first, and clients of suspected addresses for those of others.
    pub(super) fn add(
        &mut self,
        address: ClientAddress,
        client: T,
        max: usize,
        has_left: impl Fn(&T) -> bool,
        is_suspected: impl Fn(&ClientAddress) -> bool,
    ) -> bool {
        if let Some(others) = self.by_address.get_mut(&address) {
            while others.front().is_some_and(&has_left) {
                others.pop_front();
                self.len -= 1;
            }
        }
        let of_address = self.by_address.get(&address).map_or(0, VecDeque::len);
        if of_address >= max.div_ceil(2) {
            return false;
        }
        if self.len >= max && (is_suspected(&address) || !self.drop_suspect(is_suspected)) {
            return false;
        }
        self.by_address
            .entry(address)
            .or_insert_with(|| {
                self.trusted.push_back(address);
                VecDeque::new()
            })
            .push_back(client);
        self.len += 1;
        true
    }

    /// Drops the newest client of the suspected address whose turn comes last. Returns whether there was one.
    fn drop_suspect(&mut self, is_suspected: impl Fn(&ClientAddress) -> bool) -> bool {
        let Some(address) = self.suspected.back().copied().filter(is_suspected) else { return false };
        let Some(clients) = self.by_address.get_mut(&address) else { return false };
        let has_dropped = clients.pop_back().is_some();
        if clients.is_empty() {
            self.by_address.remove(&address);
            self.suspected.pop_back();
        }
        self.len -= usize::from(has_dropped);
        has_dropped
    }

    /// Takes the next client: of the trusted addresses in turns, or else, if `takes_suspects`, of the suspected ones.
    pub(super) fn take(&mut self, takes_suspects: bool, is_suspected: impl Fn(&ClientAddress) -> bool) -> Option<T> {
        while let Some(address) = self.trusted.pop_front() {
            if is_suspected(&address) {
                self.suspected.push_back(address);
            } else if let Some(client) = self.take_of(address) {
                return Some(client);
            }
        }
        for _ in 0..self.suspected.len() {
            let address = self.suspected.pop_front()?;
            if !is_suspected(&address) {
                if let Some(client) = self.take_of(address) {
                    return Some(client);
                }
            } else if takes_suspects {
                if let Some(client) = self.take_suspect(address) {
                    return Some(client);
                }
            } else {
                self.suspected.push_back(address);
            }
        }
        None
    }

    /// Takes a client of a trusted address, whose next turn comes after those of the others.
    fn take_of(&mut self, address: ClientAddress) -> Option<T> {
        let (client, is_last) = self.pop(address)?;
        if !is_last {
            self.trusted.push_back(address);
        }
        Some(client)
    }

    fn take_suspect(&mut self, address: ClientAddress) -> Option<T> {
        let (client, is_last) = self.pop(address)?;
        if !is_last {
            self.suspected.push_back(address);
        }
        Some(client)
    }

    /// Takes the first client of an address, and returns whether it was the last one.
    fn pop(&mut self, address: ClientAddress) -> Option<(T, bool)> {
        let clients = self.by_address.get_mut(&address)?;
        let client = clients.pop_front();
        let is_last = clients.is_empty();
        if is_last {
            self.by_address.remove(&address);
        }
        self.len -= usize::from(client.is_some());
        Some((client?, is_last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u8) -> ClientAddress {
        std::net::IpAddr::from([192, 0, 2, number]).into()
    }

    fn add(waiting: &mut WaitingClients<u32>, of: u8, client: u32) -> bool {
        waiting.add(address(of), client, 6, |client| *client >= 100, |_| false)
    }

    #[test]
    fn addresses_take_turns_and_one_has_at_most_half_of_the_room() {
        let mut waiting = WaitingClients::default();
        let added: Vec<bool> = (0..5).map(|client| add(&mut waiting, 1, client)).collect();
        assert_eq!(added, [true, true, true, false, false]);
        assert!(add(&mut waiting, 2, 10) && add(&mut waiting, 3, 20) && add(&mut waiting, 2, 11));
        assert!(!add(&mut waiting, 4, 30), "full");
        let order: Vec<u32> = std::iter::from_fn(|| waiting.take(false, |_| false)).collect();
        assert_eq!(order, [0, 10, 20, 1, 11, 2]);
        assert!(waiting.is_empty() && waiting.by_address.is_empty());
        assert!(add(&mut waiting, 4, 30));
    }

    #[test]
    fn suspected_addresses_come_last_and_only_when_they_may() {
        let mut waiting = WaitingClients::default();
        for (of, client) in [(1, 1), (1, 2), (2, 10), (3, 20)] {
            assert!(add(&mut waiting, of, client));
        }
        let is_suspected = |of: &ClientAddress| *of == address(1);
        assert_eq!([(); 3].map(|()| waiting.take(false, is_suspected)), [Some(10), Some(20), None]);
        assert!(add(&mut waiting, 2, 11));
        assert_eq!([(); 2].map(|()| waiting.take(true, is_suspected)), [Some(11), Some(1)]);
        assert_eq!(waiting.take(false, is_suspected), None);
        assert_eq!(waiting.take(false, |_| false), Some(2), "it has waited long enough");
        assert!(waiting.is_empty() && waiting.by_address.is_empty());
    }

    #[test]
    fn clients_of_suspected_addresses_make_room_for_those_of_others() {
        let mut waiting = WaitingClients::default();
        for (of, client) in [(1, 1), (1, 2), (1, 3), (2, 10), (2, 11), (2, 12)] {
            assert!(add(&mut waiting, of, client));
        }
        let is_suspected = |of: &ClientAddress| [address(1), address(2)].contains(of);
        let add = |waiting: &mut WaitingClients<u32>, of, client| {
            waiting.add(address(of), client, 6, |_| false, is_suspected)
        };
        assert!(!add(&mut waiting, 3, 20), "no address is known to be suspected yet");
        assert_eq!(waiting.take(false, is_suspected), None);
        assert!(add(&mut waiting, 3, 20) && !add(&mut waiting, 2, 13));
        assert_eq!(waiting.take(false, is_suspected), Some(20));
        for client in 0..4 {
            assert!(add(&mut waiting, 4, 30 + client % 3) == (client < 3));
        }
        assert!(add(&mut waiting, 5, 40) && add(&mut waiting, 6, 50) && add(&mut waiting, 7, 60));
        assert!(!add(&mut waiting, 8, 70), "no suspects are left");
        let order: Vec<u32> = std::iter::from_fn(|| waiting.take(true, is_suspected)).collect();
        assert_eq!(order, [30, 40, 50, 60, 31, 32]);
        assert!(waiting.is_empty() && waiting.by_address.is_empty() && waiting.suspected.is_empty());
    }

    #[test]
    fn clients_that_have_left_make_room_for_others_of_their_address() {
        let mut waiting = WaitingClients::default();
        for client in [100, 101, 1] {
            assert!(add(&mut waiting, 1, client));
        }
        assert!(add(&mut waiting, 1, 2) && add(&mut waiting, 1, 3) && !add(&mut waiting, 1, 4));
        assert_eq!([(); 4].map(|()| waiting.take(false, |_| false)), [Some(1), Some(2), Some(3), None]);
    }
}
