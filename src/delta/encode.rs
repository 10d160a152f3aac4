//! Making a delta: the ends that are the same, and between them what stands anywhere in the base.

use super::{DIGITS, MAX_BYTES, checksum};

/// What is looked for at once. Shorter would find more and is seldom worth a copy's eight to twelve bytes.
const WINDOW: usize = 16;

/// How many places of the base are tried for a window. Data that repeats itself, or that was made so that all windows
/// look alike, costs no more than this for each of its bytes.
const MAX_CANDIDATES: usize = 16;

/// No place: the end of a list of places.
const NO_PLACE: u32 = u32::MAX;

/// The delta that makes `target` from `base`; `None` when it would not be shorter than the target, or when one of the two
/// is longer than [`MAX_BYTES`]: then the target is sent as it is.
///
/// A target in UTF-8 is cut at code points only, so that its delta is UTF-8, too, and fits into a JSON string. Takes time and
/// memory linear in the lengths, whatever the bytes are.
#[must_use]
pub fn encode(base: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    if base.len().max(target.len()) > MAX_BYTES {
        return None;
    }
    Some(encode_always(base, target)).filter(|delta| delta.len() < target.len())
}

/// The same, worth it or not.
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

/// Bytes of the target that stand in the base.
#[derive(Clone, Copy)]
struct CommonRange {
    /// Where in the base.
    offset: usize,
    /// Where in the target they begin.
    start: usize,
    /// Where in the target they end.
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
    /// How much of the target is written.
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

    /// Writes what both begin with, and says where in the target begins what both end with.
    fn copy_prefix_and_find_suffix(&mut self) -> usize {
        let same = common_prefix_len(self.base, self.target);
        self.copy_if_shorter(self.trim_to_chars(CommonRange { offset: 0, start: 0, end: same }));
        let same = common_suffix_len(&self.base[self.written..], &self.target[self.written..]);
        let (offset, start) = (self.base.len() - same, self.target.len() - same);
        self.trim_to_chars(CommonRange { offset, start, end: self.target.len() }).start
    }

    /// Looks for what stands in the target up to `end` and anywhere in the base.
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

    /// All that is the same around `offset` in the base and `at` in the target.
    fn extend_match(&self, offset: usize, at: usize, end: usize) -> CommonRange {
        let back = common_suffix_len(&self.base[..offset], &self.target[self.written..at]);
        let length = common_prefix_len(&self.base[offset..], &self.target[at..end]);
        self.trim_to_chars(CommonRange { offset: offset - back, start: at - back, end: at + length })
    }

    /// Takes off both ends what is only a part of a code point.
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

    /// Writes what comes before `found` as an insert and `found` as a copy, unless inserting it would be shorter.
    fn copy_if_shorter(&mut self, found: CommonRange) -> bool {
        let before = found.start.saturating_sub(self.written);
        // The copy's two numbers and two marks, and the head of an insert that it ends.
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

/// Where in the base a window stands that begins at a multiple of its length: lists of places, by hash.
struct WindowIndex {
    /// For each hash the last place.
    last: Vec<u32>,
    /// For each place the one before it with its hash.
    previous: Vec<u32>,
    /// The places' windows.
    windows: Vec<u128>,
    /// How far a hash is shifted to be an index.
    shift: u32,
}

impl WindowIndex {
    fn new(base: &[u8]) -> Self {
        let windows: Vec<u128> =
            base.as_chunks::<WINDOW>().0.iter().map(|window| u128::from_le_bytes(*window)).collect();
        let size = windows.len().next_power_of_two().max(2);
        let shift = u64::BITS - size.trailing_zeros();
        let mut places =
            Self { last: vec![NO_PLACE; size], previous: Vec::with_capacity(windows.len()), windows, shift };
        // From the end, so that the first places are tried first.
        places.previous.resize(places.windows.len(), NO_PLACE);
        for place in (0..places.windows.len()).rev() {
            let hash = places.hash(places.windows[place]);
            places.previous[place] = std::mem::replace(&mut places.last[hash], place as u32);
        }
        places
    }

    /// Where `window` stands.
    fn places_of(&self, window: &[u8; WINDOW]) -> impl Iterator<Item = usize> {
        let window = u128::from_le_bytes(*window);
        let place = |place: &u32| (*place != NO_PLACE).then_some(*place);
        let first = place(&self.last[self.hash(window)]);
        let places = std::iter::successors(first, move |at| place(&self.previous[*at as usize])).take(MAX_CANDIDATES);
        places.filter(move |at| self.windows[*at as usize] == window).map(|at| at as usize * WINDOW)
    }

    fn hash(&self, window: u128) -> usize {
        let low = (window as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let high = ((window >> 64) as u64).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        ((low.rotate_left(29) ^ high).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }
}

/// How many bytes are the same from the beginning.
fn common_prefix_len(a: &[u8], b: &[u8]) -> usize {
    const STEP: usize = 16;
    let steps = a.as_chunks::<STEP>().0.iter().zip(b.as_chunks::<STEP>().0);
    let sure = steps.take_while(|(a, b)| a == b).count() * STEP;
    sure + a[sure..].iter().zip(&b[sure..]).take_while(|(a, b)| a == b).count()
}

/// How many bytes are the same from the end.
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

/// How many digits a number has.
fn digit_count(number: usize) -> usize {
    ((usize::BITS - number.leading_zeros()) as usize).div_ceil(6).max(1)
}
