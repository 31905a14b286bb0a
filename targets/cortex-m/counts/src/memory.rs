//! Working memory and reproducible numbers for the counts.

use brooklet::Line;

/// Memory for one case at a time.
pub struct Arena(pub [Line; 3072]);

impl Arena {
    /// All of it.
    pub fn bytes(&mut self) -> &mut [u8] {
        Line::bytes_mut(&mut self.0)
    }
}

/// Takes room for `count` numbers off the front of `bytes`, in whole lines of 64 bytes.
pub fn take<'a, T: bytemuck::Pod>(bytes: &mut &'a mut [u8], count: usize) -> &'a mut [T] {
    let len = (count * size_of::<T>()).next_multiple_of(64);
    let (head, rest) = core::mem::take(bytes).split_at_mut(len);
    *bytes = rest;
    &mut bytemuck::cast_slice_mut(head)[..count]
}

/// A linear congruential generator.
pub struct Noise(pub u32);

impl Noise {
    /// 32 bits, the upper ones the better.
    pub fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0
    }

    /// A number in -2..2.
    pub fn number(&mut self) -> f32 {
        self.bits() as i32 as f32 / 1_073_741_824.0
    }
}
