//! Deltas between publications in Fossil's format, which the SDKs read. A delta says how to build the target, the new data, from
//! the base, the data of an earlier publication.
//!
//! It consists of the target's length and a line feed, then copies `LENGTH@OFFSET,` from the base and inserts `LENGTH:BYTES` in
//! the order of the target, then the target's checksum and `;`. Numbers are in base 64, most significant digit first.

mod decode;
mod encode;

pub use decode::{DeltaError, decode};
pub use encode::encode;

/// Maximum length of base and target. Longer data is sent in full, so that offsets fit into the signed 32 bits that browsers
/// compute with.
pub const MAX_BYTES: usize = 16 << 20;

/// Fossil's digits for base 64, in the order of their ASCII codes.
const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";

/// Returns the sum of all big-endian words of 32 bits modulo 2^32. The last word is padded with zeros.
fn checksum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().fold(u32::from_be_bytes(last), |sum, word| sum.wrapping_add(u32::from_be_bytes(*word)))
}

#[cfg(test)]
mod tests;
