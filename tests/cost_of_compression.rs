//! The cost of compressing one message: what is left of its bytes, and the processor time, by size and level, for JSON of three kinds.
//! `cargo run --release --example compression`
#![allow(clippy::print_stdout, reason = "an example prints")]

use std::{fmt::Write, hint::black_box};

use rustix::time::{ClockId, clock_gettime};
use wardcast::deflate::compress;

const SIZES: [usize; 8] = [64, 128, 256, 512, 1024, 4096, 16_384, 65_536];
const LEVELS: [u8; 4] = [1, 3, 6, 9];
/// Different messages of a size, so that the processor cannot learn one.
const MESSAGES: usize = 32;
/// Bytes that a level compresses in a round, and rounds in turns with the other levels. The best one counts: others are slowed down by
/// other programs.
const ROUND_BYTES: usize = 256 * 1024;
const ROUNDS: usize = 20;

fn main() {
    println!("{:<8} {:>6}  then for each level {LEVELS:?}: bytes left in %, µs", "kind", "bytes");
    for (kind, write_record) in
        [("prices", write_price as fn(&mut String, &mut Numbers)), ("chat", write_chat), ("ids", write_ids)]
    {
        for size in SIZES {
            print!("{kind:<8} {size:>6} ");
            for (left, microseconds) in measure(&messages(size, write_record)) {
                print!(" {left:>6.1} {microseconds:>7.2}");
            }
            println!();
        }
    }
}

/// Returns for each level the percentage of bytes that is left, and the microseconds for a message.
fn measure(messages: &[String]) -> [(f64, f64); LEVELS.len()] {
    let mut results = [(0.0, f64::INFINITY); LEVELS.len()];
    for _ in 0..ROUNDS {
        for (level, (left, best)) in LEVELS.into_iter().zip(&mut results) {
            // Another level than the last one makes a new compressor.
            let compressed = messages.iter().map(|message| sent_bytes(message, level)).sum::<usize>();
            *left = 100.0 * compressed as f64 / messages.iter().map(String::len).sum::<usize>() as f64;
            let repetitions = (ROUND_BYTES / (messages[0].len() * MESSAGES)).max(1);
            let started = processor_seconds();
            for message in std::iter::repeat_n(messages, repetitions).flatten() {
                black_box(compress(black_box(message.as_bytes()), level));
            }
            let seconds = processor_seconds() - started;
            *best = best.min(seconds * 1e6 / (repetitions * MESSAGES) as f64);
        }
    }
    results
}

/// Returns the processor time of this thread.
fn processor_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// A message that does not become shorter is sent as it is.
fn sent_bytes(message: &str, level: u8) -> usize {
    compress(message.as_bytes(), level).map_or(message.len(), |compressed| compressed.len())
}

/// Makes messages of exactly this size: pushes with a list of records, the last one cut.
fn messages(size: usize, write_record: fn(&mut String, &mut Numbers)) -> Vec<String> {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut message = || {
        let offset = numbers.next(1_000_000);
        let mut text = format!(r#"{{"push":{{"channel":"news","pub":{{"offset":{offset},"data":["#);
        while text.len() < size {
            write_record(&mut text, &mut numbers);
        }
        text.truncate(size);
        text
    };
    (0..MESSAGES).map(|_| message()).collect()
}

/// Few names, many numbers.
fn write_price(text: &mut String, numbers: &mut Numbers) {
    let symbol = ["AAPL", "MSFT", "GOOG", "AMZN", "NVDA", "TSLA", "META", "SAP"][numbers.next(8)];
    let (price, cents, volume, time) =
        (numbers.next(900), numbers.next(100), numbers.next(100_000), numbers.next(10_000_000));
    let _ =
        write!(text, r#"{{"symbol":"{symbol}","price":{price}.{cents:02},"volume":{volume},"time":179{time:010}}},"#);
}

/// Words of a language: the frequent ones are short, as there.
fn write_chat(text: &mut String, numbers: &mut Numbers) {
    const WORDS: [&str; 32] = [
        "the", "a", "to", "and", "of", "I", "you", "is", "it", "in", "we", "that", "on", "for", "not", "can",
        "meeting", "tomorrow", "please", "deploy", "question", "looks", "thanks", "broken", "release", "customer",
        "really", "people", "before", "should", "sounds", "later",
    ];
    let user = numbers.next(100_000);
    let _ = write!(text, r#"{{"user":"user-{user}","text":""#);
    for _ in 0..6 + numbers.next(20) {
        let (one, other) = (numbers.next(WORDS.len()), numbers.next(WORDS.len()));
        let _ = write!(text, "{} ", WORDS[one.min(other)]);
    }
    text.push_str(r#"","edited":false},"#);
}

/// Ids at random, which hardly compress, beside names that do.
fn write_ids(text: &mut String, numbers: &mut Numbers) {
    let mut hex = || format!("{:08x}{:08x}", numbers.next(1 << 32), numbers.next(1 << 32));
    let (id, owner, hash) = (hex(), hex(), hex());
    let _ = write!(text, r#"{{"id":"{id}","owner":"{owner}","hash":"{hash}","state":"open"}},"#);
}

/// A sequence of numbers that look random (xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % below
    }
}
