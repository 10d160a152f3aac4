//! The stamp inside every publication: who published it, which one it is, and when, at a place found without parsing JSON.

/// What a delivery frame holds right before the stamp.
const MARKER: &[u8] = b"\"data\":{\"b\":\"";
/// What the data of a publication begins with.
const HEAD: &[u8] = b"{\"b\":\"";
/// What it ends with.
const TAIL: &[u8] = b"\"}";
/// Digits of lane, sequence number and time.
/// (The command line allows 999 lanes.)
const DIGITS: [usize; 3] = [3, 10, 20];
/// Bytes of a stamp.
const STAMP_BYTES: usize = 33;

/// The smallest data a publication can have.
pub(crate) const MIN_DATA_BYTES: usize = HEAD.len() + STAMP_BYTES + TAIL.len();

/// One publication's mark. Sequence numbers count from 1 within a lane, as only publications that waited for each other's
/// answer have an order to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PublicationStamp {
    /// The publisher's lane.
    pub(crate) publisher: u16,
    /// Which publication of that lane.
    pub(crate) sequence: u32,
    /// The run's clock when it was published, in nanoseconds.
    pub(crate) sent: u64,
}

impl PublicationStamp {
    /// The `data` of a publication, valid JSON of exactly `size` bytes (never less than `MIN_DATA_BYTES`).
    pub(crate) fn data(self, size: usize) -> Vec<u8> {
        let Self { publisher, sequence, sent } = self;
        let mut data = Vec::with_capacity(size.max(MIN_DATA_BYTES));
        data.extend_from_slice(HEAD);
        data.extend_from_slice(format!("{publisher:03}{sequence:010}{sent:020}").as_bytes());
        data.resize(size.max(MIN_DATA_BYTES) - TAIL.len(), b'.');
        data.extend_from_slice(TAIL);
        data
    }

    /// Reads the stamp of a publication's `data`, or `None` when it is none of this program's.
    pub(crate) fn read(data: &[u8]) -> Option<Self> {
        parse_digits(data.strip_prefix(HEAD)?.get(..STAMP_BYTES)?)
    }
}

/// Finds stamps in delivery frames. All deliveries of a run look alike and those of one publication are equal, so it tries
/// the last place first and remembers the last stamp: the client's cost per delivery stays small beside the server's.
#[derive(Debug, Default)]
pub(crate) struct StampFinder {
    marker_at: usize,
    last_digits: Vec<u8>,
    stamp: PublicationStamp,
}

impl StampFinder {
    /// The stamp in `reply`, or `None` when it is no publication of this program.
    pub(crate) fn find(&mut self, reply: &[u8]) -> Option<PublicationStamp> {
        let here = reply.get(self.marker_at..).unwrap_or_default();
        if !here.starts_with(MARKER) {
            self.marker_at = reply.windows(MARKER.len()).position(|at| at == MARKER)?;
        }
        let start = self.marker_at + MARKER.len();
        let last_digits = reply.get(start..start + STAMP_BYTES)?;
        if last_digits != self.last_digits {
            self.stamp = parse_digits(last_digits)?;
            self.last_digits.clear();
            self.last_digits.extend_from_slice(last_digits);
        }
        Some(self.stamp)
    }
}

fn parse_digits(last_digits: &[u8]) -> Option<PublicationStamp> {
    let mut rest = std::str::from_utf8(last_digits).ok()?;
    let mut numbers = [0; 3];
    for (number, digits) in numbers.iter_mut().zip(DIGITS) {
        let (head, tail) = rest.split_at_checked(digits)?;
        *number = head.parse::<u64>().ok()?;
        rest = tail;
    }
    Some(PublicationStamp {
        publisher: u16::try_from(numbers[0]).ok()?,
        sequence: u32::try_from(numbers[1]).ok()?,
        sent: numbers[2],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(channel: &str, stamp: PublicationStamp, size: usize) -> Vec<u8> {
        let mut reply = format!(r#"{{"push":{{"channel":"{channel}","pub":{{"data":"#).into_bytes();
        reply.extend(stamp.data(size));
        reply.extend_from_slice(b"}}}");
        reply
    }

    #[test]
    fn stamp_is_found_at_any_position() {
        let mut finder = StampFinder::default();
        for (number, channel) in ["bench", "bench", "a", "a-longer-name", "x"].iter().enumerate() {
            let stamp = PublicationStamp { publisher: 7, sequence: u32::try_from(number).unwrap(), sent: u64::MAX - 3 };
            assert_eq!(finder.find(&delivery(channel, stamp, 128)), Some(stamp));
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
