//! Encoding of deltas: first the common prefix and suffix, then any part of the target in between that occurs in the base.

use super::{DIGITS, MAX_BYTES, checksum};

/// Length of the windows that are searched for. Shorter matches are rarely worth the eight to twelve bytes of a copy.
const WINDOW: usize = 16;

/// Maximum number of places in the base that are compared for a window. It bounds the cost per byte, also for repetitive data
/// and for data that an attacker made so that all windows collide.
const MAX_CANDIDATES: usize = 16;

/// The end of a list of places.
const NO_PLACE: u32 = u32::MAX;

/// Returns the delta from `base` to `target`, or `None` if it would not be shorter than the target, or if either is longer than
/// [`MAX_BYTES`]. The target is then sent in full.
///
/// A target in UTF-8 is split only between code points, so that its delta is UTF-8 as well and fits into a JSON string. Time and
/// memory are linear in the lengths for any content.
#[must_use]
pub fn encode(base: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    if base.len().max(target.len()) > MAX_BYTES {
        return None;
    }
    Some(encode_always(base, target)).filter(|delta| delta.len() < target.len())
}

/// Returns the delta even if it is longer than the target.
pub(super) fn encode_always(base: &[u8], target: &[u8]) -> Vec<u8> {
    let mut writer = DeltaWriter::new(base, target);
    let end = writer.copy_prefix_and_find_suffix();
    if end - writer.written >= WINDOW && base.len() >= WINDOW {
        writer.search(end);
    }
    let suffix = target.len() - end;
    writer.copy_if_shorter(CommonRange { offset: base.len() - suffix, start: end, end: target.len() });
    writer.finish()
}

/// A range of the target that also occurs in the base.
#[derive(Clone, Copy)]
struct CommonRange {
    /// Start of the range in the base.
    offset: usize,
    /// Start of the range in the target.
    start: usize,
    /// End of the range in the target.
    end: usize,
}

impl CommonRange {
    fn len(self) -> usize {
        self.end.saturating_sub(self.start)
    }
}

struct DeltaWriter<'a> {
    base: &'a [u8],
    target: &'a [u8],
    is_text: bool,
    /// How much of the target the delta covers so far.
    written: usize,
    delta: Vec<u8>,
}

impl<'a> DeltaWriter<'a> {
    fn new(base: &'a [u8], target: &'a [u8]) -> Self {
        let mut delta = Vec::with_capacity(64);
        push_number(&mut delta, target.len());
        delta.push(b'\n');
        Self { base, target, is_text: std::str::from_utf8(target).is_ok(), written: 0, delta }
    }

    /// Writes the common prefix, and returns where in the target the common suffix starts.
    fn copy_prefix_and_find_suffix(&mut self) -> usize {
        let same = common_prefix_len(self.base, self.target);
        self.copy_if_shorter(self.trim_to_chars(CommonRange { offset: 0, start: 0, end: same }));
        let same = common_suffix_len(&self.base[self.written..], &self.target[self.written..]);
        let (offset, start) = (self.base.len() - same, self.target.len() - same);
        self.trim_to_chars(CommonRange { offset, start, end: self.target.len() }).start
    }

    /// Writes the parts of the target up to `end` that occur anywhere in the base.
    fn search(&mut self, end: usize) {
        let places = WindowIndex::new(self.base);
        let mut at = self.written;
        while let Some(window) = self.target[..end].get(at..).and_then(|rest| rest.first_chunk()) {
            let candidates = places.places_of(window).map(|offset| self.extend_match(offset, at, end));
            let longest = candidates.max_by_key(|found| found.len());
            at = match longest {
                Some(found) if self.copy_if_shorter(found) => self.written,
                _ => at + 1,
            };
        }
    }

    /// Returns the longest common range around `offset` in the base and `at` in the target.
    fn extend_match(&self, offset: usize, at: usize, end: usize) -> CommonRange {
        let back = common_suffix_len(&self.base[..offset], &self.target[self.written..at]);
        let length = common_prefix_len(&self.base[offset..], &self.target[at..end]);
        self.trim_to_chars(CommonRange { offset: offset - back, start: at - back, end: at + length })
    }

    /// Removes partial code points from both ends of the range.
    fn trim_to_chars(&self, found: CommonRange) -> CommonRange {
        let is_inside = |at: usize| self.is_text && self.target.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
        let CommonRange { mut offset, mut start, mut end } = found;
        while start < end && is_inside(start) {
            (start, offset) = (start + 1, offset + 1);
        }
        while end > start && is_inside(end) {
            end -= 1;
        }
        CommonRange { offset, start, end }
    }

    /// Writes the bytes before `found` as an insert and `found` as a copy. Writes nothing and returns `false` if inserting `found`
    /// would be shorter.
    fn copy_if_shorter(&mut self, found: CommonRange) -> bool {
        let before = found.start.saturating_sub(self.written);
        // The two numbers and two marks of the copy, and the head of the insert before it.
        let cost = digit_count(found.len()) + digit_count(found.offset) + 3 + digit_count(before);
        if found.len() < cost {
            return false;
        }
        self.insert_up_to(found.start);
        push_number(&mut self.delta, found.len());
        self.delta.push(b'@');
        push_number(&mut self.delta, found.offset);
        self.delta.push(b',');
        self.written = found.end;
        true
    }

    fn insert_up_to(&mut self, end: usize) {
        if self.written < end {
            push_number(&mut self.delta, end - self.written);
            self.delta.push(b':');
            self.delta.extend_from_slice(&self.target[self.written..end]);
            self.written = end;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.insert_up_to(self.target.len());
        push_number(&mut self.delta, checksum(self.target) as usize);
        self.delta.push(b';');
        self.delta
    }
}

/// Finds windows of the base: for each hash a linked list of places. A place is the start of a window, a multiple of its length.
struct WindowIndex {
    /// For each hash the head of its list.
    heads: Vec<u32>,
    /// For each place the next one in its list.
    next: Vec<u32>,
    /// The window at each place.
    windows: Vec<u128>,
    /// How many bits a hash is shifted right to become an index.
    shift: u32,
}

impl WindowIndex {
    fn new(base: &[u8]) -> Self {
        let windows: Vec<u128> =
            base.as_chunks::<WINDOW>().0.iter().map(|window| u128::from_le_bytes(*window)).collect();
        let size = windows.len().next_power_of_two().max(2);
        let shift = u64::BITS - size.trailing_zeros();
        let mut places = Self { heads: vec![NO_PLACE; size], next: Vec::with_capacity(windows.len()), windows, shift };
        // Backwards, so that each list starts with the first place.
        places.next.resize(places.windows.len(), NO_PLACE);
        for place in (0..places.windows.len()).rev() {
            let hash = places.hash(places.windows[place]);
            places.next[place] = std::mem::replace(&mut places.heads[hash], place as u32);
        }
        places
    }

    /// Returns the offsets in the base at which `window` starts.
    fn places_of(&self, window: &[u8; WINDOW]) -> impl Iterator<Item = usize> {
        let window = u128::from_le_bytes(*window);
        let place = |place: &u32| (*place != NO_PLACE).then_some(*place);
        let first = place(&self.heads[self.hash(window)]);
        let places = std::iter::successors(first, move |at| place(&self.next[*at as usize])).take(MAX_CANDIDATES);
        places.filter(move |at| self.windows[*at as usize] == window).map(|at| at as usize * WINDOW)
    }

    fn hash(&self, window: u128) -> usize {
        let low = (window as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let high = ((window >> 64) as u64).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        ((low.rotate_left(29) ^ high).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }
}

/// Returns the length of the common prefix.
fn common_prefix_len(a: &[u8], b: &[u8]) -> usize {
    const STEP: usize = 16;
    let steps = a.as_chunks::<STEP>().0.iter().zip(b.as_chunks::<STEP>().0);
    let sure = steps.take_while(|(a, b)| a == b).count() * STEP;
    sure + a[sure..].iter().zip(&b[sure..]).take_while(|(a, b)| a == b).count()
}

/// Returns the length of the common suffix.
fn common_suffix_len(a: &[u8], b: &[u8]) -> usize {
    const STEP: usize = 16;
    let steps = a.as_rchunks::<STEP>().1.iter().rev().zip(b.as_rchunks::<STEP>().1.iter().rev());
    let sure = steps.take_while(|(a, b)| a == b).count() * STEP;
    let (a, b) = (&a[..a.len() - sure], &b[..b.len() - sure]);
    sure + a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}

/// Appends a number in base 64.
fn push_number(into: &mut Vec<u8>, number: usize) {
    for place in (0..digit_count(number)).rev() {
        into.push(DIGITS[(number >> (6 * place)) & 63]);
    }
}

/// Returns how many base-64 digits a number has.
fn digit_count(number: usize) -> usize {
    ((usize::BITS - number.leading_zeros()) as usize).div_ceil(6).max(1)
}
