//! How much may be compared for the sake of shorter publications: a difference is looked for on the hub's thread, and everybody
//! whose session lives there waits for it.

use crate::delta;

/// Bytes that are compared at a time, what is compared to included. Data made for it takes some 50 ms for each MiB.
const MOST_BYTES: usize = 512 * 1024;

/// What may still be compared in one turn.
pub(super) struct Comparing {
    left_bytes: usize,
}

impl Default for Comparing {
    fn default() -> Self {
        Self { left_bytes: MOST_BYTES }
    }
}

impl Comparing {
    /// What makes `after` from `before`; `None` where the whole is shorter, or where it would take too long to find out.
    pub(super) fn difference(&mut self, before: &[u8], after: &[u8]) -> Option<Vec<u8>> {
        self.left_bytes = self.left_bytes.checked_sub(before.len() + after.len())?;
        delta::encode(before, after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_take_too_long_to_compare_comes_whole_and_what_is_small_goes_on() {
        let mut comparing = Comparing::default();
        let large = vec![b'a'; MOST_BYTES / 4];
        assert!(comparing.difference(&large, &large).is_some());
        assert!(comparing.difference(&large, &vec![b'a'; MOST_BYTES / 4 + 1]).is_none());
        assert!(comparing.difference(&large[..1000], &large[..2000]).is_some());
        let long = vec![b'a'; MOST_BYTES / 2];
        assert!(Comparing::default().difference(&long, &long).is_some());
        assert!(Comparing::default().difference(&long, &[&long[..], b"a"].concat()).is_none());
    }
}
