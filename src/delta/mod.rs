//! Deltas between publications, in Fossil's format, as the SDKs read it: what to copy from the last one and what is new.
//!
//! A delta is text around raw bytes: the target's length and a line feed, then copies `LENGTH@OFFSET,` and inserts
//! `LENGTH:BYTES` in the target's order, then the target's checksum and `;`. Numbers are written in base 64, most
//! significant digit first.

mod decode;
mod encode;

pub use decode::{DeltaError, decode};
pub use encode::encode;

/// Longer data is sent in full: offsets stay inside the signed 32 bits that a browser computes in.
pub const MAX_BYTES: usize = 16 << 20;

/// Fossil's digits, in the order of their ASCII codes.
const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";

/// The sum of all big-endian words of 32 bits, the last one filled up with zeros, modulo 2^32.
fn checksum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().fold(u32::from_be_bytes(last), |sum, word| sum.wrapping_add(u32::from_be_bytes(*word)))
}

#[cfg(test)]
mod tests;
