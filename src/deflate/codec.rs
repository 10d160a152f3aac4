//! The compressor and the decompressor of a thread. Both are reset for each message.

use std::cell::RefCell;

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{WINDOW_BITS, counters};

/// The empty stored block that ends each flush. A message is sent without it (RFC 7692 §7.2.1).
const FLUSH_TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// The bytes appended to a received message: the tail that its sender has removed (§7.2.2), and an empty final block. The inflater
/// reaches the end of that block only if the message was complete.
const MESSAGE_END: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];
/// Bytes that are reserved first for an inflated message.
const FIRST_BYTES: usize = 512;

thread_local! {
    /// The compressor and its level, which is the same for all connections of a hub.
    static COMPRESSOR: RefCell<Option<(u8, Compress)>> = const { RefCell::new(None) };
    /// Its window has the maximum size: clients may choose theirs.
    static INFLATER: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// Why a message cannot be inflated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// It is longer than the limit.
    #[error("inflated message too big")]
    TooBig,
    /// It is not a sequence of DEFLATE blocks (RFC 1951), or the last one is incomplete.
    #[error("invalid compressed data")]
    Malformed,
}

/// Compresses the payload of a message (RFC 7692 §7.2.1); `None` if that does not make it shorter.
pub fn compress(payload: &[u8], level: u8) -> Option<Vec<u8>> {
    let compressed = run_compressor(payload, level);
    counters::count_sent(payload.len(), compressed.as_ref().map(Vec::len));
    compressed
}

fn run_compressor(payload: &[u8], level: u8) -> Option<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|slot| {
        if slot.as_ref().is_none_or(|(with_level, _)| *with_level != level) {
            *slot = None;
        }
        let (_, compressor) = slot.get_or_insert_with(|| {
            let level_of_library = Compression::new(level.into());
            (level, Compress::new_with_window_bits(level_of_library, false, WINDOW_BITS))
        });
        compressor.reset();
        let mut compressed = vec![0; max_compressed_bytes(payload.len())];
        let result = compressor.compress(payload, &mut compressed, FlushCompress::Sync);
        let length = usize::try_from(compressor.total_out()).ok()?;
        if result.is_err() || length == compressed.len() {
            // A full buffer: the compressor has kept the rest, and resetting it does not remove that.
            *slot = None;
            return None;
        }
        compressed.truncate(length);
        let length = compressed.strip_suffix(&FLUSH_TAIL)?.len();
        compressed.truncate(length);
        (length < payload.len()).then_some(compressed)
    })
}

/// Returns how long the output of the compressor can become. A compressor that has more output than there is room for it must not be
/// used again: zlib-rs 0.6.8 does not reset the place of the output that is left, so that later messages panic, or contain it.
/// Level 1 writes bytes from 144 on in nine bits each (RFC 1951 §3.2.6); the others add 5 bytes to each block that they only store.
fn max_compressed_bytes(payload_bytes: usize) -> usize {
    payload_bytes + payload_bytes / 8 + 64
}

/// Inflates the payload of a message (RFC 7692 §7.2.2) to at most `max_bytes`. Never reserves more than a byte above that.
///
/// # Errors
/// [`InflateError`]
pub fn inflate(payload: &[u8], max_bytes: usize) -> Result<Bytes, InflateError> {
    let message = run_inflater(payload, max_bytes);
    counters::count_received(payload.len(), message.as_ref().map(Bytes::len).map_err(|error| *error));
    message
}

fn run_inflater(payload: &[u8], max_bytes: usize) -> Result<Bytes, InflateError> {
    INFLATER.with_borrow_mut(|inflater| {
        inflater.reset(false);
        let mut message = Inflated { bytes: Vec::new(), length: 0, max_bytes };
        message.append(inflater, payload)?;
        let is_complete = message.append(inflater, &MESSAGE_END)?;
        if !is_complete {
            return Err(InflateError::Malformed);
        }
        message.bytes.truncate(message.length);
        // A history may keep the message.
        message.bytes.shrink_to_fit();
        Ok(message.bytes.into())
    })
}

/// A message that is being inflated.
struct Inflated {
    /// With room for what follows.
    bytes: Vec<u8>,
    length: usize,
    max_bytes: usize,
}

impl Inflated {
    /// Inflates more of the message. Returns whether the input ends with a final block.
    fn append(&mut self, inflater: &mut Decompress, mut input: &[u8]) -> Result<bool, InflateError> {
        let mut is_at_end = false;
        while !input.is_empty() || (self.length == self.bytes.len() && !is_at_end) {
            if self.length == self.bytes.len() {
                self.grow()?;
            }
            let (read, written) = (inflater.total_in(), inflater.total_out());
            let status = inflater.decompress(input, &mut self.bytes[self.length..], FlushDecompress::Sync);
            let (read, written) = ((inflater.total_in() - read) as usize, (inflater.total_out() - written) as usize);
            input = &input[read..];
            self.length += written;
            is_at_end = match status {
                Ok(Status::StreamEnd) => {
                    // Blocks may follow a final one (§7.2.3.4).
                    inflater.reset(false);
                    true
                }
                Ok(Status::Ok | Status::BufError) => false,
                Err(_) => return Err(InflateError::Malformed),
            };
            if self.length > self.max_bytes {
                return Err(InflateError::TooBig);
            }
            if read == 0 && written == 0 && self.length < self.bytes.len() && !is_at_end {
                // There is input or output for it, and it makes no progress.
                return if input.is_empty() { Ok(false) } else { Err(InflateError::Malformed) };
            }
        }
        Ok(is_at_end)
    }

    /// Makes room: twice as much, up to one byte above the limit, which shows that the message exceeds it.
    fn grow(&mut self) -> Result<(), InflateError> {
        let length = (2 * self.bytes.len()).max(FIRST_BYTES).min(self.max_bytes + 1);
        if length <= self.bytes.len() {
            return Err(InflateError::TooBig);
        }
        self.bytes.reserve_exact(length - self.bytes.len());
        self.bytes.resize(length, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HELLO: &[u8] = b"Hello";

    fn bomb(bytes: usize) -> Vec<u8> {
        compress(&vec![0; bytes], 9).unwrap()
    }

    proptest! {
        #[test]
        fn compressed_messages_are_inflated_unchanged(piece in "[a-z ]{1,20}", times in 1_usize..400, level in 1_u8..=9) {
            let message = piece.repeat(times);
            if let Some(compressed) = compress(message.as_bytes(), level) {
                prop_assert!(compressed.len() < message.len());
                prop_assert_eq!(inflate(&compressed, message.len()).unwrap(), message.as_bytes());
            }
        }

        #[test]
        fn any_bytes_are_inflated_within_the_limit_or_refused(payload: Vec<u8>, max_bytes in 0_usize..2000) {
            if let Ok(inflated) = inflate(&payload, max_bytes) {
                prop_assert!(inflated.len() <= max_bytes);
            }
        }
    }

    #[test]
    fn examples_of_rfc_7692_are_inflated() {
        for (what, compressed) in [
            ("§7.2.3.1 one block", &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..]),
            ("§7.2.3.3 no compression", &[0, 5, 0, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0]),
            ("§7.2.3.4 a final block", &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00]),
            ("§7.2.3.5 two blocks", &[0xf2, 0x48, 0x05, 0, 0, 0, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00]),
        ] {
            assert_eq!(inflate(compressed, HELLO.len()).as_deref(), Ok(HELLO), "{what}");
        }
        assert_eq!(inflate(&[0], 0).as_deref(), Ok(&b""[..]), "§7.2.3.6 an empty message");
    }

    #[test]
    fn every_cut_of_a_compressed_message_is_refused() {
        let message: Vec<u8> =
            (0..200_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
        let text = [b"a long text, a long text, and once more a long text".as_slice(), &message].concat();
        let compressed = compress(&[text.as_slice(), &text].concat(), 6).unwrap();
        for cut in 0..compressed.len() - 1 {
            assert!(inflate(&compressed[..cut], 1 << 20).is_err(), "cut at {cut} of {}", compressed.len());
        }
    }

    #[test]
    fn data_that_is_not_deflate_is_refused() {
        for (what, payload) in [
            ("nothing", &[][..]),
            ("reserved block type", &[0x07]),
            ("distance before the beginning", &[0x4a, 0x04, 0x42, 0x00, 0xff]),
            ("wrong length of a stored block", &[0, 5, 0, 0, 0, 1, 2, 3, 4, 5]),
            ("text", b"{\"id\":1}"),
        ] {
            assert_eq!(inflate(payload, 1000), Err(InflateError::Malformed), "{what}");
        }
    }

    #[test]
    fn message_over_the_limit_is_refused_without_more_memory() {
        for max_bytes in [1, 511, 512, 513, 1000, 65_536] {
            assert_eq!(inflate(&bomb(max_bytes + 100), max_bytes + 100).unwrap().len(), max_bytes + 100);
            let mut message = Inflated { bytes: Vec::new(), length: 0, max_bytes };
            let inflated = message.append(&mut Decompress::new(false), &bomb(10 << 20));
            assert_eq!(inflated, Err(InflateError::TooBig));
            assert!(message.bytes.capacity() <= max_bytes + 1, "{} for {max_bytes}", message.bytes.capacity());
        }
        // Exactly the limit, and one byte above it.
        let compressed = bomb(65_536);
        assert_eq!(inflate(&compressed, 65_536).unwrap().len(), 65_536);
        assert_eq!(inflate(&compressed, 65_535), Err(InflateError::TooBig));
    }

    #[test]
    fn refused_message_leaves_nothing_to_the_next_one() {
        assert!(inflate(&bomb(100_000), 1000).is_err());
        assert!(inflate(&[0x07], 1000).is_err());
        let compressed = compress(&HELLO.repeat(9), 6).unwrap();
        assert_eq!(inflate(&compressed, 1000).unwrap(), HELLO.repeat(9));
    }

    #[test]
    fn message_that_would_not_become_shorter_is_not_compressed() {
        let mut random = vec![0; 2000];
        getrandom::fill(&mut random).unwrap();
        assert_eq!(compress(&random, 9), None);
        assert_eq!(compress(b"", 9), None);
        assert_eq!(compress(b"x", 9), None);
    }

    #[test]
    fn messages_that_do_not_become_shorter_leave_nothing_to_later_ones() {
        let text = HELLO.repeat(40);
        let mut random = vec![0; 70_000];
        getrandom::fill(&mut random).unwrap();
        for level in 1..=9 {
            let expected = compress(&text, level).unwrap();
            for bytes in (0..200).map(|number| 200 + 10 * number).chain([16_383, 16_384, 65_535, 65_536, 70_000]) {
                // Bytes that level 1 writes in nine bits.
                let high: Vec<u8> = random[..bytes].iter().map(|byte| byte | 0x90).collect();
                compress(&high, level);
                compress(&random[..bytes], level);
                assert_eq!(compress(&text, level).as_ref(), Some(&expected), "level {level}, {bytes} bytes");
            }
        }
        assert_eq!(inflate(&compress(&text, 1).unwrap(), 1000).unwrap(), text);
    }

    #[test]
    fn no_message_fills_the_buffer_of_the_compressor() {
        let mut random = vec![0; 200_000];
        getrandom::fill(&mut random).unwrap();
        let high: Vec<u8> = random.iter().map(|byte| byte | 0x90).collect();
        for level in 1..=9 {
            for bytes in [0, 1, 2, 3, 10, 100, 1000, 16_384, 65_536, 200_000] {
                for payload in [&random[..bytes], &high[..bytes]] {
                    compress(payload, level);
                    assert!(COMPRESSOR.with_borrow(Option::is_some), "level {level}, {bytes} bytes");
                }
            }
        }
    }

    #[test]
    fn each_message_is_compressed_at_the_level_that_it_asks_for() {
        let text: Vec<u8> =
            (0..2000_u32).flat_map(|number| format!("{} ", number * number % 977).into_bytes()).collect();
        let [fast, small, fast_again] = [1, 9, 1].map(|level| compress(&text, level).unwrap());
        assert!(fast.len() > small.len(), "{} and {}", fast.len(), small.len());
        assert_eq!(fast, fast_again);
    }

    #[test]
    fn distances_stay_within_the_window_that_was_negotiated() {
        // The same text again, farther back than the window: with a larger one it would become much shorter.
        let mut text = vec![0; 2 << WINDOW_BITS];
        getrandom::fill(&mut text).unwrap();
        let hex: Vec<u8> = text.iter().map(|byte| b"0123456789abcdef"[usize::from(byte & 15)]).collect();
        for level in 1..=9 {
            assert_inflated_with_small_window(&hex, level);
        }
    }

    /// Compresses a text twice in one message, and inflates it with the negotiated window.
    fn assert_inflated_with_small_window(hex: &[u8], level: u8) {
        let compressed = compress(&[hex, hex].concat(), level).unwrap();
        let once = compress(hex, level).unwrap();
        assert!(compressed.len() > once.len() / 10 * 19, "level {level}: {} and {}", compressed.len(), once.len());
        let mut inflater = Decompress::new_with_window_bits(false, WINDOW_BITS);
        let mut inflated = vec![0; 2 * hex.len() + 1];
        // In pieces: in one go an inflater needs no window.
        for piece in compressed.chunks(100) {
            let at = inflater.total_out() as usize;
            let end = inflated.len().min(at + 4096);
            let mut rest = piece;
            while !rest.is_empty() {
                let (read, at) = (inflater.total_in(), inflater.total_out() as usize);
                inflater.decompress(rest, &mut inflated[at..end.max(at + 1)], FlushDecompress::None).unwrap();
                rest = &rest[(inflater.total_in() - read) as usize..];
            }
        }
        let length = inflater.total_out() as usize;
        assert_eq!(&inflated[..length], &[hex, hex].concat()[..length], "level {level}");
        assert!(length >= 2 * hex.len() - 300, "level {level}: {length}");
    }
}
