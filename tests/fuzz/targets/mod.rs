//! What must hold for any bytes that a stranger sends, one room's entrance a file: plain functions that panic when it does
//! not. libFuzzer runs them (`tests/run fuzz`), and so does proptest in the test crate (`tests/fuzzing.rs`).

mod channel;
mod claims;
mod command;
mod credentials;
mod delta;
mod filter;
mod frames;
mod method;
mod origin;
mod protobuf;
mod proxy;

pub use channel::channel;
pub use claims::claims;
pub use command::command;
pub use credentials::credentials;
pub use delta::delta;
pub use filter::filter;
pub use frames::frames;
pub use origin::origin;
pub use protobuf::protobuf;
pub use proxy::proxy;

/// A source of decisions that the same seed gives again.
struct Dice(u64);

impl Dice {
    fn new(seed: u8) -> Self {
        Self((u64::from(seed) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// From 0 up to and not including `end`.
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % end.max(1)
    }
}
