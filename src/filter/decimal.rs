//! Decimal numbers of any length, compared as they are written: ids and prices over 2^53 stay what they are.

use std::cmp::Ordering;

/// A number in one form: no zeros before or after it, and no negative zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Decimal<Text> {
    is_negative: bool,
    /// Digits before the point; none for 0.
    whole: Text,
    /// Digits behind it.
    fraction: Text,
}

impl<'a> Decimal<&'a str> {
    /// The number that `text` says: a sign or none, digits, and a point with more digits or none. No exponent.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(fraction) {
            return None;
        }
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        let is_zero = whole.is_empty() && fraction.is_empty();
        Some(Self { is_negative: text.starts_with('-') && !is_zero, whole, fraction })
    }

    pub(super) fn into_owned(self) -> Decimal<Box<str>> {
        Decimal { is_negative: self.is_negative, whole: self.whole.into(), fraction: self.fraction.into() }
    }

    /// Exact, whatever the lengths.
    pub(super) fn compare(&self, other: &Decimal<Box<str>>) -> Ordering {
        let sizes = || {
            let whole = self.whole.len().cmp(&other.whole.len()).then_with(|| self.whole.cmp(&other.whole));
            whole.then_with(|| self.fraction.cmp(&other.fraction))
        };
        match (self.is_negative, other.is_negative) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, false) => sizes(),
            (true, true) => sizes().reverse(),
        }
    }
}
