//! Fuzz targets: functions that take any bytes and panic if the code breaks one of its rules; one file for each kind of
//! input. libFuzzer runs them (`tests/run fuzz`), and so does proptest in the test crate (`tests/fuzzing.rs`).

mod channel;
mod claims;
mod command;
mod credentials;
mod delta;
mod filter;
mod frames;
mod key_set;
mod logout_token;
mod method_text;
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
pub use key_set::key_set;
pub use logout_token::logout_token;
pub use origin::origin;
pub use protobuf::protobuf;
pub use proxy::proxy;

/// A generator whose numbers depend only on its seed.
struct Random(u64);

impl Random {
    fn new(seed: u8) -> Self {
        Self((u64::from(seed) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Returns a number from 0 to `end - 1`.
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % end.max(1)
    }
}
