//! Fuzz targets: functions that take any bytes and panic if the code breaks one of its rules; one file for each kind of
//! input. libFuzzer runs them (`tests/fuzz/main.rs`), and so does proptest in the test crate (`tests/fuzzing.rs`).

mod channel;
mod claims;
mod command;
mod credentials;
mod deflate;
mod delta;
mod filter;
mod frames;
mod key_set;
mod logout_token;
mod method_text;
mod origin;
mod protobuf;
mod proxy;
mod refresh_token;
mod revocation;
mod stream_requests;

pub use channel::channel;
pub use claims::claims;
pub use command::command;
pub use credentials::credentials;
pub use deflate::deflate;
pub use delta::delta;
pub use filter::filter;
pub use frames::frames;
pub use key_set::key_set;
pub use logout_token::logout_token;
pub use origin::origin;
pub use protobuf::protobuf;
pub use proxy::proxy;
pub use refresh_token::refresh_token;
pub use revocation::revocation;
pub use stream_requests::stream_requests;

/// A function that panics if it finds a fault.
pub type FuzzTarget = fn(&[u8]);

/// All targets and their names, which are those of their folders in `tests/fuzz/corpus`.
pub const TARGETS: [(&str, FuzzTarget); 16] = [
    ("channel", channel),
    ("claims", claims),
    ("command", command),
    ("credentials", credentials),
    ("deflate", deflate),
    ("delta", delta),
    ("filter", filter),
    ("frames", frames),
    ("key_set", key_set),
    ("logout_token", logout_token),
    ("origin", origin),
    ("protobuf", protobuf),
    ("proxy", proxy),
    ("refresh_token", refresh_token),
    ("revocation", revocation),
    ("stream_requests", stream_requests),
];

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
