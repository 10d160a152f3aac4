//! The stamp in the data of every publication: its publisher, its number and when it was sent, found without parsing JSON.

use crate::error::{Result, fail};

/// The bytes before the stamp in a delivery.
const MARKER: &[u8] = b"\"data\":{\"b\":\"";
/// The beginning of a publication's data.
const HEAD: &[u8] = b"{\"b\":\"";
/// The end of a publication's data.
const TAIL: &[u8] = b"\"}";
/// Digits of publisher, sequence number and time. (The command line allows 999 publishers.)
const DIGITS: [usize; 3] = [3, 10, 20];
/// Bytes of a stamp.
const STAMP_BYTES: usize = 33;
/// The smallest data of a publication.
const MIN_DATA_BYTES: usize = HEAD.len() + STAMP_BYTES + TAIL.len();

/// The stamp. Sequence numbers count from 1 for each publisher, because only publications that waited for each other's
/// answer have an order that can be checked.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct PublicationStamp {
    /// The number of the publisher.
    pub(crate) publisher: u16,
    /// The number of the publication among those of its publisher.
    pub(crate) sequence: u32,
    /// The clock when it was sent.
    pub(crate) sent_at: u64,
}

/// Checks the value of `--size`.
pub(crate) fn check_size(size: usize) -> Result<()> {
    if size < MIN_DATA_BYTES {
        return fail(format!("--size {size}: a publication needs {MIN_DATA_BYTES} bytes"));
    }
    Ok(())
}

impl PublicationStamp {
    /// The data of a publication: valid JSON of `size` bytes, or of the smallest size.
    pub(crate) fn data(self, size: usize) -> Vec<u8> {
        let Self { publisher, sequence, sent_at } = self;
        let mut data = HEAD.to_vec();
        data.extend_from_slice(format!("{publisher:03}{sequence:010}{sent_at:020}").as_bytes());
        data.resize(size.max(MIN_DATA_BYTES) - TAIL.len(), b'.');
        data.extend_from_slice(TAIL);
        data
    }

    /// The stamp in a publication's `data`, or `None` if this program did not publish it.
    pub(crate) fn read(data: &[u8]) -> Option<Self> {
        Self::parse(data.strip_prefix(HEAD)?.get(..STAMP_BYTES)?)
    }

    fn parse(digits: &[u8]) -> Option<Self> {
        let mut rest = std::str::from_utf8(digits).ok()?;
        let mut numbers = [0; 3];
        for (number, count) in numbers.iter_mut().zip(DIGITS) {
            let (head, tail) = rest.split_at_checked(count)?;
            *number = head.parse::<u64>().ok()?;
            rest = tail;
        }
        let [publisher, sequence, sent_at] = numbers;
        Some(Self { publisher: publisher as u16, sequence: u32::try_from(sequence).ok()?, sent_at })
    }
}

/// Finds stamps in deliveries. Deliveries of a run look alike, and those of one publication are equal. So it looks at the
/// previous position first and remembers the previous stamp, which keeps the cost per delivery small beside the server's.
#[derive(Default)]
pub(crate) struct StampFinder {
    position: usize,
    digits: Vec<u8>,
    stamp: PublicationStamp,
}

impl StampFinder {
    /// The stamp in `push`, or `None` if it is not a publication of this program.
    pub(crate) fn find(&mut self, push: &[u8]) -> Option<PublicationStamp> {
        if !push.get(self.position..).unwrap_or_default().starts_with(MARKER) {
            self.position = push.windows(MARKER.len()).position(|at| at == MARKER)?;
        }
        let start = self.position + MARKER.len();
        let digits = push.get(start..start + STAMP_BYTES)?;
        if digits != self.digits {
            self.stamp = PublicationStamp::parse(digits)?;
            self.digits.clear();
            self.digits.extend_from_slice(digits);
        }
        Some(self.stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamp_is_found_at_any_position() {
        let mut finder = StampFinder::default();
        for (sequence, channel) in (0..).zip(["bench", "bench", "a", "a-longer-name", "x"]) {
            let stamp = PublicationStamp { publisher: 7, sequence, sent_at: u64::MAX - 3 };
            let push =
                [format!(r#"{{"push":{{"channel":"{channel}","pub":{{"data":"#).as_bytes(), &stamp.data(128)].concat();
            assert_eq!(finder.find(&push), Some(stamp));
        }
        assert_eq!(finder.find(b"{}"), None);
        assert_eq!(finder.find(br#"{"push":{"channel":"bench","pub":{"data":{"b":"1"}}}}"#), None);
    }

    #[test]
    fn data_is_valid_json_of_the_requested_size() {
        for size in [0, MIN_DATA_BYTES, 128, 4096] {
            let data = PublicationStamp::default().data(size);
            assert_eq!(data.len(), size.max(MIN_DATA_BYTES));
            assert!(serde_json::from_slice::<serde_json::Value>(&data).is_ok());
            assert_eq!(PublicationStamp::read(&data), Some(PublicationStamp::default()));
        }
    }
}
