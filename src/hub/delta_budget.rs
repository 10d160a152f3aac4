//! Limits the work of computing deltas. It is done on the hub's thread, and all sessions of the thread wait for it.

use crate::delta;

/// Maximum bytes to compare, both sides together. Data made to be slow takes some 50 ms per MiB.
const MAX_COMPARED_BYTES: usize = 512 * 1024;

/// The bytes that may still be compared.
pub(super) struct DeltaBudget {
    remaining_bytes: usize,
}

impl Default for DeltaBudget {
    fn default() -> Self {
        Self { remaining_bytes: MAX_COMPARED_BYTES }
    }
}

impl DeltaBudget {
    /// Computes the delta that turns `before` into `after`; `None` if `after` itself is shorter, or the budget too
    /// small.
    pub(super) fn encode_delta(&mut self, before: &[u8], after: &[u8]) -> Option<Vec<u8>> {
        self.remaining_bytes = self.remaining_bytes.checked_sub(before.len() + after.len())?;
        delta::encode(before, after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delta_over_the_budget_is_not_computed_and_smaller_ones_still_are() {
        let mut delta_budget = DeltaBudget::default();
        let large = vec![b'a'; MAX_COMPARED_BYTES / 4];
        assert!(delta_budget.encode_delta(&large, &large).is_some());
        assert!(delta_budget.encode_delta(&large, &vec![b'a'; MAX_COMPARED_BYTES / 4 + 1]).is_none());
        assert!(delta_budget.encode_delta(&large[..1000], &large[..2000]).is_some());
        let long = vec![b'a'; MAX_COMPARED_BYTES / 2];
        assert!(DeltaBudget::default().encode_delta(&long, &long).is_some());
        assert!(DeltaBudget::default().encode_delta(&long, &[&long[..], b"a"].concat()).is_none());
    }
}
