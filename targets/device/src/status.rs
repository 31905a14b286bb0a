//! Which model slot is active: a few bytes in a ring of two slots of their own, so that a change is all or nothing.

use crate::record::{u32_at, u64_at};

/// The status of a model store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// The slot to boot from; none, for the built-in model.
    pub(crate) active: Option<Slot>,
    /// Boots left to the active model until it must be confirmed; `None` once it is.
    pub(crate) trial: Option<u8>,
    /// What lies in the slots.
    pub(crate) images: [Option<Image>; 2],
}

/// One of the two model slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

/// An installed model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) file_bytes: u32,
    pub(crate) hash: u64,
}

impl Slot {
    /// The other one.
    pub fn other(self) -> Slot {
        match self {
            Slot::A => Slot::B,
            Slot::B => Slot::A,
        }
    }

    pub(crate) fn of<T>(self, pair: &[T; 2]) -> &T {
        match self {
            Slot::A => &pair[0],
            Slot::B => &pair[1],
        }
    }

    pub(crate) fn of_mut<T>(self, pair: &mut [T; 2]) -> &mut T {
        match self {
            Slot::A => &mut pair[0],
            Slot::B => &mut pair[1],
        }
    }
}

/// Bytes of an encoded status:
///
/// ```text
///  0  active      1   0 A, 1 B, 255 none
///  1  trial       1   0 confirmed, 1 on trial
///  2  boots left  1
///  3  zero        5
///  8  A           16  bytes of the file (4, 0: no model), zero (4), model hash (8)
/// 24  B           16
/// ```
pub(crate) const STATUS_BYTES: usize = 40;

impl Status {
    /// Of a flash that never saw a model.
    pub(crate) const EMPTY: Status = Status { active: None, trial: None, images: [None; 2] };

    pub(crate) fn encode(&self) -> [u8; STATUS_BYTES] {
        let mut out = [0; STATUS_BYTES];
        out[0] = match self.active {
            Some(Slot::A) => 0,
            Some(Slot::B) => 1,
            None => u8::MAX,
        };
        out[1] = u8::from(self.trial.is_some());
        out[2] = self.trial.unwrap_or(0);
        for (image, out) in self.images.iter().zip(out[8..].as_chunks_mut::<16>().0) {
            if let Some(image) = image {
                out[..4].copy_from_slice(&image.file_bytes.to_le_bytes());
                out[8..].copy_from_slice(&image.hash.to_le_bytes());
            }
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8; STATUS_BYTES]) -> Option<Status> {
        let active = match bytes[0] {
            0 => Some(Slot::A),
            1 => Some(Slot::B),
            u8::MAX => None,
            _ => return None,
        };
        let trial = match bytes[1] {
            0 => None,
            1 => Some(bytes[2]),
            _ => return None,
        };
        let image = |at: usize| {
            let file_bytes = u32_at(bytes, at);
            (file_bytes > 0).then(|| Image { file_bytes, hash: u64_at(bytes, at + 8) })
        };
        Some(Status { active, trial, images: [image(8), image(24)] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_the_documented_bytes() {
        let status = Status {
            active: Some(Slot::B),
            trial: Some(3),
            images: [None, Some(Image { file_bytes: 0x0102_0304, hash: 0x1112_1314_1516_1718 })],
        };
        let mut want = [0; STATUS_BYTES];
        want[..3].copy_from_slice(&[1, 1, 3]);
        want[24..28].copy_from_slice(&[4, 3, 2, 1]);
        want[32..].copy_from_slice(&[0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11]);
        assert_eq!(status.encode(), want);
        assert_eq!(Status::decode(&want), Some(status));
        for status in [Status::EMPTY, Status { trial: None, ..status }, Status { active: Some(Slot::A), trial: Some(0), ..status }] {
            assert_eq!(Status::decode(&status.encode()), Some(status));
        }
        want[0] = 2;
        assert_eq!(Status::decode(&want), None);
    }
}
