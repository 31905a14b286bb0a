//! Inputs of one group, widened once for all rows: pairs of 16-bit halves in the order in which weights unpack.

use crate::quant::GROUP;

/// Groups widened at once: 128 columns take 288 bytes of stack.
pub(super) const PANEL: usize = 4;

/// The assembly loads it whole.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Group {
    /// What the second table of 4-bit codes adds.
    picked: i32,
    /// Scale of the inputs.
    scale: f32,
    /// (16)
    pairs: [u32; GROUP / 2],
}

impl Group {
    pub(super) const EMPTY: Group = Group { picked: 0, scale: 0.0, pairs: [0; GROUP / 2] };
}

const UPPER_BYTES: u32 = 0xff00_ff00;

/// For words of four columns: columns (0, 2), then (1, 3), each times 256.
#[inline(always)]
pub(super) fn widen_q8(codes: &[i8; GROUP], scale: f32, group: &mut Group) {
    group.scale = scale;
    for (codes, pairs) in codes.as_chunks::<4>().0.iter().zip(group.pairs.as_chunks_mut::<2>().0) {
        let word = word(codes);
        *pairs = [word << 8 & UPPER_BYTES, word & UPPER_BYTES];
    }
}

/// For words of eight columns, four in the low nibbles and four in the high ones: columns (0, 4), (1, 5), (2, 6), (3, 7).
#[inline(always)]
pub(super) fn widen_q4(codes: &[i8; GROUP], scale: f32, picked: i32, group: &mut Group) {
    group.scale = scale;
    group.picked = picked;
    for (codes, pairs) in codes.as_chunks::<8>().0.iter().zip(group.pairs.as_chunks_mut::<4>().0) {
        for (i, pair) in pairs.iter_mut().enumerate() {
            *pair = i32::from(codes[i]) as u32 & 0xffff | (i32::from(codes[i + 4]) as u32) << 16;
        }
    }
}

#[inline(always)]
fn word(codes: &[i8; 4]) -> u32 {
    u32::from_le_bytes(codes.map(|c| c as u8))
}
