//! How the codes of a format come to registers.

use crate::quant::{Q4, Q8, TILE_ROWS};
use core::arch::aarch64::*;

/// Two of the eight words of a tile: (columns `8 k..` and `8 k + 4..`, 4 rows each) x 4 columns.
pub(super) type Lines = [[int8x16_t; 4]; 2];

/// A format of 8-bit codes, or one whose codes become such.
pub(super) trait Codes: Copy {
    /// 16 rows x 32 columns as stored.
    type Tile;
    /// Whether that is 8-bit codes already.
    const AS_STORED: bool;

    /// Columns `8 k..8 k + 8` of a tile as 8-bit codes; `k` is below 4.
    fn lines(&self, tile: &Self::Tile, k: usize) -> Lines;

    /// From the sub-scales of 16 rows: what the sum of activations counts for in the sum of products, and the factor of that.
    fn split(&self, sub_scales: &[i8; TILE_ROWS]) -> (int8x16_t, int8x16_t);
}

/// The planes of a matrix whose codes are `C`.
#[derive(Clone, Copy)]
pub(super) struct Planes<'a, C: Codes> {
    pub(super) codes: C,
    /// (tile_rows)
    pub(super) row_scales: &'a [[f32; TILE_ROWS]],
    /// (tile_rows, groups)
    pub(super) sub_scales: &'a [[i8; TILE_ROWS]],
    /// (tile_rows, groups)
    pub(super) tiles: &'a [C::Tile],
}

/// Four registers of a word.
#[inline(always)]
fn load_word(word: &[i8; 64]) -> [int8x16_t; 4] {
    // SAFETY: 64 readable bytes; NEON is part of every aarch64 core.
    unsafe {
        let at = word.as_ptr();
        [vld1q_s8(at), vld1q_s8(at.add(16)), vld1q_s8(at.add(32)), vld1q_s8(at.add(48))]
    }
}

/// Codes of 8 bits are as they lie.
#[derive(Clone, Copy)]
pub(super) struct Q8Codes;

impl Codes for Q8Codes {
    type Tile = [[i8; 64]; 8];
    const AS_STORED: bool = true;

    #[inline(always)]
    fn lines(&self, tile: &[[i8; 64]; 8], k: usize) -> Lines {
        [load_word(&tile[2 * k]), load_word(&tile[2 * k + 1])]
    }

    #[inline(always)]
    fn split(&self, sub_scales: &[i8; TILE_ROWS]) -> (int8x16_t, int8x16_t) {
        // SAFETY: 16 readable bytes; NEON is part of every aarch64 core.
        unsafe { (vdupq_n_s8(0), vld1q_s8(sub_scales.as_ptr())) }
    }
}

impl<'a> From<Q8<'a>> for Planes<'a, Q8Codes> {
    fn from(q: Q8<'a>) -> Self {
        Planes { codes: Q8Codes, row_scales: q.row_scales, sub_scales: q.sub_scales, tiles: q.tiles }
    }
}

/// Codes of 4 bits are places in a table; the second table is the first plus `shift`.
#[derive(Clone, Copy)]
pub(super) struct Q4Codes {
    table: int8x16_t,
    shift: int8x16_t,
}

impl Codes for Q4Codes {
    type Tile = [[u8; 64]; 4];
    const AS_STORED: bool = false;

    #[inline(always)]
    fn lines(&self, tile: &[[u8; 64]; 4], k: usize) -> Lines {
        // SAFETY: a word is 64 readable bytes; NEON is part of every aarch64 core.
        unsafe {
            let mut lines = [[self.table; 4]; 2];
            for j in 0..4 {
                let codes = vld1q_u8(tile[k].as_ptr().add(16 * j));
                lines[0][j] = vqtbl1q_s8(self.table, vandq_u8(codes, vdupq_n_u8(15)));
                lines[1][j] = vqtbl1q_s8(self.table, vshrq_n_u8::<4>(codes));
            }
            lines
        }
    }

    #[inline(always)]
    fn split(&self, sub_scales: &[i8; TILE_ROWS]) -> (int8x16_t, int8x16_t) {
        split_picks(self.shift, sub_scales)
    }
}

/// Sub-scales with a factor in the upper seven bits, and the pick of the second table, which is the first plus `shift`, in the lowest.
#[inline(always)]
pub(super) fn split_picks(shift: int8x16_t, sub_scales: &[i8; TILE_ROWS]) -> (int8x16_t, int8x16_t) {
    // SAFETY: 16 readable bytes; NEON is part of every aarch64 core.
    unsafe {
        let sub = vld1q_s8(sub_scales.as_ptr());
        // The lowest bit over the whole byte.
        let picks = vreinterpretq_s8_u8(vtstq_s8(sub, vdupq_n_s8(1)));
        (vandq_s8(picks, shift), vshrq_n_s8::<1>(sub))
    }
}

impl<'a> From<Q4<'a>> for Planes<'a, Q4Codes> {
    fn from(q: Q4<'a>) -> Self {
        // SAFETY: the table is 16 readable bytes; NEON is part of every aarch64 core.
        let codes = unsafe { Q4Codes { table: vld1q_s8(q.table.as_ptr()), shift: vdupq_n_s8(q.shift) } };
        Planes { codes, row_scales: q.row_scales, sub_scales: q.sub_scales, tiles: q.tiles }
    }
}
