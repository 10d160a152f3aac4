//! The position of a publication in the history of its channel. A channel without history has no positions.

use std::{cell::RefCell, fmt};

use serde::{Serialize, Serializer};

/// A place in a channel's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Position {
    /// Counted from 1; 0 before the first publication.
    pub offset: u64,
    /// Names the history. Offsets of different epochs cannot be compared.
    pub epoch: Epoch,
}

/// Names a history from its creation until it is lost. Clients send it back as text; text of another form cannot be an epoch of
/// this hub.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch([u8; Epoch::BYTES]);

impl Epoch {
    /// Length of the text.
    pub const BYTES: usize = 8;

    /// Generates a random epoch. 48 bits of randomness make it unique in practice.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn random() -> Result<Self, getrandom::Error> {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
        let bytes = RANDOMNESS.with_borrow_mut(RandomBytes::take)?;
        Ok(Self(bytes.map(|byte| LETTERS[usize::from(byte % 64)])))
    }

    /// Parses an epoch from a client or another instance. Returns `None` for text that [`Self::random`] cannot generate.
    pub fn parse(text: &str) -> Option<Self> {
        let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        <[u8; Self::BYTES]>::try_from(text.as_bytes()).ok().filter(|bytes| bytes.iter().all(is_letter)).map(Self)
    }

    /// Returns the epoch as text, as it is sent to clients.
    pub fn as_str(&self) -> &str {
        // Both constructors allow only ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

thread_local! {
    static RANDOMNESS: RefCell<RandomBytes> = const { RefCell::new(RandomBytes { bytes: [0; RandomBytes::COUNT], left: 0 }) };
}

/// Random bytes for the next epochs of this thread. Every publish to a history in Redis offers an epoch, in case there is none, and
/// asking the system each time would cost a system call.
struct RandomBytes {
    bytes: [u8; Self::COUNT],
    left: usize,
}

impl RandomBytes {
    const COUNT: usize = 32 * Epoch::BYTES;

    fn take(&mut self) -> Result<[u8; Epoch::BYTES], getrandom::Error> {
        if self.left == 0 {
            getrandom::fill(&mut self.bytes)?;
            self.left = Self::COUNT;
        }
        self.left -= Epoch::BYTES;
        let mut taken = [0; Epoch::BYTES];
        taken.copy_from_slice(&self.bytes[self.left..self.left + Epoch::BYTES]);
        Ok(taken)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Epoch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_random_epochs_are_equal() {
        let epochs: HashSet<Epoch> = (0..1000).map(|_| Epoch::random().unwrap()).collect();
        assert_eq!(epochs.len(), 1000);
        let other = std::thread::spawn(|| Epoch::random().unwrap()).join().unwrap();
        assert!(!epochs.contains(&other));
    }

    #[test]
    fn only_an_epoch_of_the_generated_form_is_parsed() {
        let epoch = Epoch::random().unwrap();
        assert_eq!(Epoch::parse(epoch.as_str()), Some(epoch));
        assert_ne!(Epoch::random().unwrap(), epoch);
        for other in ["", "abc", "abcdefghi", "abcdefg\n", "äbcdefg"] {
            assert_eq!(Epoch::parse(other), None, "{other:?}");
        }
    }
}
