//! The record that makes a slot valid: written last, so that a slot without one never counted.
//!
//! ```text
//!  0  magic          4   what the ring holds: "BRKF" snapshots, "BRKM" the model status
//!  4  version        4   1
//!  8  sequence       8   one more than the highest in the ring
//! 16  model hash     8   of the stream's model (0 in a model status)
//! 24  position       8   steps taken by the stream (0 in a model status)
//! 32  body bytes     4
//! 36  erases         4   of this slot, this write's included
//! 40  body CRC-32    4
//! 44  record CRC-32  4   of the 44 bytes before
//! ```
//!
//! All little-endian. The record stands at the slot's start, filled up to a word; the body follows.

use crate::error::Refused;

/// Bytes of a record.
pub(crate) const RECORD_BYTES: usize = 48;
const VERSION: u32 = 1;

/// What a slot says about its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Counts the ring's writes: the highest is the newest.
    pub sequence: u64,
    /// The stream's model.
    pub model_hash: u64,
    /// Steps taken by the stream.
    pub position: u64,
    /// Bytes of the body.
    pub body_bytes: u32,
    /// How often this slot was erased. A power cut can lose one from the count.
    pub erases: u32,
    /// CRC-32 of the body.
    pub body_crc32: u32,
}

impl Record {
    pub(crate) fn encode(&self, magic: [u8; 4]) -> [u8; RECORD_BYTES] {
        let mut out = [0; RECORD_BYTES];
        let mut rest = &mut out[..];
        let mut put = |field: &[u8]| {
            let (head, tail) = core::mem::take(&mut rest).split_at_mut(field.len());
            head.copy_from_slice(field);
            rest = tail;
        };
        put(&magic);
        put(&VERSION.to_le_bytes());
        put(&self.sequence.to_le_bytes());
        put(&self.model_hash.to_le_bytes());
        put(&self.position.to_le_bytes());
        put(&self.body_bytes.to_le_bytes());
        put(&self.erases.to_le_bytes());
        put(&self.body_crc32.to_le_bytes());
        let crc32 = crc32fast::hash(&out[..RECORD_BYTES - 4]);
        out[RECORD_BYTES - 4..].copy_from_slice(&crc32.to_le_bytes());
        out
    }

    /// The record in `bytes`; `None` if they are as erased.
    pub(crate) fn decode(bytes: &[u8; RECORD_BYTES], magic: [u8; 4]) -> Result<Option<Record>, Refused> {
        if bytes.iter().all(|&b| b == 0xff) {
            return Ok(None);
        }
        let (u32_at, u64_at) = (|at: usize| u32_at(bytes, at), |at: usize| u64_at(bytes, at));
        if bytes[..4] != magic || crc32fast::hash(&bytes[..RECORD_BYTES - 4]) != u32_at(44) {
            return Err(Refused::Unfinished);
        }
        if u32_at(4) != VERSION {
            return Err(Refused::Version { found: u32_at(4) });
        }
        Ok(Some(Record {
            sequence: u64_at(8),
            model_hash: u64_at(16),
            position: u64_at(24),
            body_bytes: u32_at(32),
            erases: u32_at(36),
            body_crc32: u32_at(40),
        }))
    }
}

/// The `u32` at `at`; all ones beyond the end.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(u32::MAX, |b| u32::from_le_bytes(*b))
}

/// The `u64` at `at`; all ones beyond the end.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(u64::MAX, |b| u64::from_le_bytes(*b))
}
