//! Making a delta: the ends that are the same, and between them what stands anywhere in the origin.

use super::{DIGITS, MOST_BYTES, checksum};

/// What is looked for at once. Shorter would find more and is seldom worth a copy's eight to twelve bytes.
const WINDOW: usize = 16;

/// How many places of the origin are tried for a window. Data that repeats itself, or that was made so that all windows
/// look alike, costs no more than this for each of its bytes.
const TRIES: usize = 16;

/// No place: the end of a list of places.
const NOWHERE: u32 = u32::MAX;

/// The delta that makes `target` from `origin`; `None` when it would not be shorter than the target, or when one of the two
/// is longer than [`MOST_BYTES`]: then the target is sent as it is.
///
/// A target in UTF-8 is cut at code points only, so that its delta is UTF-8, too, and fits into a JSON string. Takes time and
/// memory linear in the lengths, whatever the bytes are.
#[must_use]
pub fn encode(origin: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    if origin.len().max(target.len()) > MOST_BYTES {
        return None;
    }
    Some(whole(origin, target)).filter(|delta| delta.len() < target.len())
}

/// The same, worth it or not.
pub(super) fn whole(origin: &[u8], target: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(origin, target);
    let end = writer.same_ends();
    if end - writer.done >= WINDOW && origin.len() >= WINDOW {
        writer.search(end);
    }
    let suffix = target.len() - end;
    writer.copy_if_shorter(Match { offset: origin.len() - suffix, start: end, end: target.len() });
    writer.finish()
}

/// Bytes of the target that stand in the origin.
#[derive(Clone, Copy)]
struct Match {
    /// Where in the origin.
    offset: usize,
    /// Where in the target they begin.
    start: usize,
    /// Where in the target they end.
    end: usize,
}

impl Match {
    fn len(self) -> usize {
        self.end.saturating_sub(self.start)
    }
}

struct Writer<'a> {
    origin: &'a [u8],
    target: &'a [u8],
    is_text: bool,
    /// How much of the target is written.
    done: usize,
    delta: Vec<u8>,
}

impl<'a> Writer<'a> {
    fn new(origin: &'a [u8], target: &'a [u8]) -> Self {
        let mut delta = Vec::with_capacity(64);
        number(&mut delta, target.len());
        delta.push(b'\n');
        Self { origin, target, is_text: std::str::from_utf8(target).is_ok(), done: 0, delta }
    }

    /// Writes what both begin with, and says where in the target begins what both end with.
    fn same_ends(&mut self) -> usize {
        let same = same_length(self.origin, self.target);
        self.copy_if_shorter(self.cut(Match { offset: 0, start: 0, end: same }));
        let same = same_length_back(&self.origin[self.done..], &self.target[self.done..]);
        let (offset, start) = (self.origin.len() - same, self.target.len() - same);
        self.cut(Match { offset, start, end: self.target.len() }).start
    }

    /// Looks for what stands in the target up to `end` and anywhere in the origin.
    fn search(&mut self, end: usize) {
        let places = Places::of(self.origin);
        let mut at = self.done;
        while let Some(window) = self.target[..end].get(at..).and_then(|rest| rest.first_chunk()) {
            let candidates = places.of_window(window).map(|offset| self.extend(offset, at, end));
            let longest = candidates.max_by_key(|found| found.len());
            at = match longest {
                Some(found) if self.copy_if_shorter(found) => self.done,
                _ => at + 1,
            };
        }
    }

    /// All that is the same around `offset` in the origin and `at` in the target.
    fn extend(&self, offset: usize, at: usize, end: usize) -> Match {
        let back = same_length_back(&self.origin[..offset], &self.target[self.done..at]);
        let length = same_length(&self.origin[offset..], &self.target[at..end]);
        self.cut(Match { offset: offset - back, start: at - back, end: at + length })
    }

    /// Takes off both ends what is only a part of a code point.
    fn cut(&self, found: Match) -> Match {
        let is_inside = |at: usize| self.is_text && self.target.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
        let Match { mut offset, mut start, mut end } = found;
        while start < end && is_inside(start) {
            (start, offset) = (start + 1, offset + 1);
        }
        while end > start && is_inside(end) {
            end -= 1;
        }
        Match { offset, start, end }
    }

    /// Writes what comes before `found` as an insert and `found` as a copy, unless inserting it would be shorter.
    fn copy_if_shorter(&mut self, found: Match) -> bool {
        let before = found.start.saturating_sub(self.done);
        // The copy's two numbers and two marks, and the head of an insert that it ends.
        let cost = digits(found.len()) + digits(found.offset) + 3 + digits(before);
        if found.len() < cost {
            return false;
        }
        self.insert_up_to(found.start);
        number(&mut self.delta, found.len());
        self.delta.push(b'@');
        number(&mut self.delta, found.offset);
        self.delta.push(b',');
        self.done = found.end;
        true
    }

    fn insert_up_to(&mut self, end: usize) {
        if self.done < end {
            number(&mut self.delta, end - self.done);
            self.delta.push(b':');
            self.delta.extend_from_slice(&self.target[self.done..end]);
            self.done = end;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.insert_up_to(self.target.len());
        number(&mut self.delta, checksum(self.target) as usize);
        self.delta.push(b';');
        self.delta
    }
}

/// Where in the origin a window stands that begins at a multiple of its length: lists of places, by hash.
struct Places {
    /// For each hash the last place.
    last: Vec<u32>,
    /// For each place the one before it with its hash.
    before: Vec<u32>,
    /// The places' windows.
    windows: Vec<u128>,
    /// How far a hash is shifted to be an index.
    shift: u32,
}

impl Places {
    fn of(origin: &[u8]) -> Self {
        let windows: Vec<u128> =
            origin.as_chunks::<WINDOW>().0.iter().map(|window| u128::from_le_bytes(*window)).collect();
        let size = windows.len().next_power_of_two().max(2);
        let shift = u64::BITS - size.trailing_zeros();
        let mut places = Self { last: vec![NOWHERE; size], before: Vec::with_capacity(windows.len()), windows, shift };
        // From the end, so that the first places are tried first.
        places.before.resize(places.windows.len(), NOWHERE);
        for place in (0..places.windows.len()).rev() {
            let hash = places.hash(places.windows[place]);
            places.before[place] = std::mem::replace(&mut places.last[hash], place as u32);
        }
        places
    }

    /// Where `window` stands.
    fn of_window(&self, window: &[u8; WINDOW]) -> impl Iterator<Item = usize> {
        let window = u128::from_le_bytes(*window);
        let place = |place: &u32| (*place != NOWHERE).then_some(*place);
        let first = place(&self.last[self.hash(window)]);
        let places = std::iter::successors(first, move |at| place(&self.before[*at as usize])).take(TRIES);
        places.filter(move |at| self.windows[*at as usize] == window).map(|at| at as usize * WINDOW)
    }

    fn hash(&self, window: u128) -> usize {
        let low = (window as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let high = ((window >> 64) as u64).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        ((low.rotate_left(29) ^ high).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }
}

/// How many bytes are the same from the beginning.
fn same_length(a: &[u8], b: &[u8]) -> usize {
    const STEP: usize = 16;
    let steps = a.as_chunks::<STEP>().0.iter().zip(b.as_chunks::<STEP>().0);
    let sure = steps.take_while(|(a, b)| a == b).count() * STEP;
    sure + a[sure..].iter().zip(&b[sure..]).take_while(|(a, b)| a == b).count()
}

/// How many bytes are the same from the end.
fn same_length_back(a: &[u8], b: &[u8]) -> usize {
    const STEP: usize = 16;
    let steps = a.as_rchunks::<STEP>().1.iter().rev().zip(b.as_rchunks::<STEP>().1.iter().rev());
    let sure = steps.take_while(|(a, b)| a == b).count() * STEP;
    let (a, b) = (&a[..a.len() - sure], &b[..b.len() - sure]);
    sure + a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}

/// Appends a number in base 64.
fn number(into: &mut Vec<u8>, number: usize) {
    for place in (0..digits(number)).rev() {
        into.push(DIGITS[(number >> (6 * place)) & 63]);
    }
}

/// How many digits a number has.
fn digits(number: usize) -> usize {
    ((usize::BITS - number.leading_zeros()) as usize).div_ceil(6).max(1)
}
