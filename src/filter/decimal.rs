//! Decimal numbers of any length, compared exactly: ids above 2^53 and prices keep their precision.

use std::cmp::Ordering;

/// A number in its normal form: without leading and trailing zeros, and without negative zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Decimal<Text> {
    is_negative: bool,
    /// Digits before the point; empty for 0.
    whole: Text,
    /// Digits after the point.
    fraction: Text,
}

impl<'a> Decimal<&'a str> {
    /// Parses an optional sign, digits, and optionally a point with more digits. Exponents are not allowed.
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

    /// Compares exactly, for any lengths.
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
