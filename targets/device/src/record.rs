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

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: Record = Record {
        sequence: 0x0102_0304_0506_0708,
        model_hash: 0x1112_1314_1516_1718,
        position: 0x2122_2324_2526_2728,
        body_bytes: 0x3132_3334,
        erases: 0x4142_4344,
        body_crc32: 0x5152_5354,
    };

    /// What is in flash stays readable: these bytes never change.
    const BYTES: [u8; RECORD_BYTES] = [
        b'B', b'R', b'K', b'F', 1, 0, 0, 0, //
        0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, // sequence
        0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11, // model hash
        0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21, // position
        0x34, 0x33, 0x32, 0x31, 0x44, 0x43, 0x42, 0x41, // body's length, erases
        0x54, 0x53, 0x52, 0x51, 0x00, 0x00, 0x00, 0x00, // CRC-32 of the body, of the record (below)
    ];

    fn with_crc(mut bytes: [u8; RECORD_BYTES]) -> [u8; RECORD_BYTES] {
        let crc32 = crc32fast::hash(&bytes[..44]);
        bytes[44..].copy_from_slice(&crc32.to_le_bytes());
        bytes
    }

    #[test]
    fn records_have_the_documented_bytes() {
        assert_eq!(RECORD.encode(*b"BRKF"), with_crc(BYTES));
        assert_eq!(Record::decode(&with_crc(BYTES), *b"BRKF"), Ok(Some(RECORD)));
        assert_eq!(Record::decode(&[0xff; RECORD_BYTES], *b"BRKF"), Ok(None));
    }

    #[test]
    fn other_records_are_refused() {
        assert_eq!(Record::decode(&with_crc(BYTES), *b"BRKM"), Err(Refused::Unfinished));
        assert_eq!(Record::decode(&BYTES, *b"BRKF"), Err(Refused::Unfinished));
        let mut newer = BYTES;
        newer[4] = 2;
        assert_eq!(Record::decode(&with_crc(newer), *b"BRKF"), Err(Refused::Version { found: 2 }));
        for bit in 0..RECORD_BYTES * 8 {
            let mut damaged = with_crc(BYTES);
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::decode(&damaged, *b"BRKF"), Err(Refused::Unfinished), "bit {bit}");
        }
    }
}
