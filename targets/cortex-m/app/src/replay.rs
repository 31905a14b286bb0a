//! A recording through a model, and a fingerprint of all answers: two devices that print the same one computed the same bits.

use brooklet::{Error, Input, Session};

/// 64-bit FNV-1a of answers' little-endian bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Fingerprint(0xcbf2_9ce4_8422_2325)
    }
}

impl Fingerprint {
    /// Takes in one answer, (outputs).
    pub fn add(&mut self, outputs: &[f32]) {
        for byte in outputs.iter().flat_map(|y| y.to_bits().to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// A recording of little-endian `f32`, (steps, channels), that begins anew when it ends.
#[derive(Clone, Copy, Debug)]
pub struct Replay<'r, const CHANNELS: usize> {
    /// (steps, channels)
    words: &'r [[u8; 4]],
}

impl<'r, const CHANNELS: usize> Replay<'r, CHANNELS> {
    /// The recording in `bytes`.
    pub fn new(bytes: &'r [u8]) -> Self {
        Replay { words: bytes.as_chunks::<4>().0 }
    }

    /// Frame `step` of the endless recording, (channels); zeros if the recording is empty.
    pub fn frame(&self, step: usize) -> [f32; CHANNELS] {
        let steps = (self.words.len() / CHANNELS.max(1)).max(1);
        let start = step % steps * CHANNELS;
        core::array::from_fn(|channel| self.words.get(start + channel).map_or(0.0, |word| f32::from_le_bytes(*word)))
    }

    /// Streams frames `steps`, and adds their answers to `fingerprint`.
    pub fn stream(
        &self,
        steps: core::ops::Range<usize>,
        session: &mut Session<'_, '_, '_>,
        fingerprint: &mut Fingerprint,
    ) -> Result<(), Error> {
        for step in steps {
            fingerprint.add(session.step(Input::Frame(&self.frame(step)))?);
        }
        Ok(())
    }
}
