//! Codes of 2, 3, 5 and 6 bits: their planes are joined to places in a table of up to 64 levels.

use super::codes::{Codes, Lines, Planes, split_picks};
use crate::quant::planes::Tile;
use crate::quant::{Coded, TILE_ROWS};
use core::arch::aarch64::*;

/// Codes of `BITS` bits.
#[derive(Clone, Copy)]
pub(super) struct PlaneCodes<const BITS: usize> {
    /// (64): the levels, zero behind the last.
    table: int8x16x4_t,
    shift: int8x16_t,
}

impl<const BITS: usize> Codes for PlaneCodes<BITS> {
    type Tile = Tile<BITS>;
    const AS_STORED: bool = false;

    #[inline(always)]
    fn lines(&self, tile: &Tile<BITS>, k: usize) -> Lines {
        let mut lines = [[self.shift; 4]; 2];
        for (line, codes) in lines.iter_mut().enumerate() {
            for (j, codes) in codes.iter_mut().enumerate() {
                let places = places(tile, 2 * k + line, j);
                // SAFETY: NEON is part of every aarch64 core.
                *codes = unsafe {
                    match BITS {
                        2 | 3 => vqtbl1q_s8(self.table.0, places),
                        5 => vqtbl2q_s8(int8x16x2_t(self.table.0, self.table.1), places),
                        _ => vqtbl4q_s8(self.table, places),
                    }
                };
            }
        }
        lines
    }

    #[inline(always)]
    fn split(&self, sub_scales: &[i8; TILE_ROWS]) -> (int8x16_t, int8x16_t) {
        split_picks(self.shift, sub_scales)
    }
}

/// The codes of line `line` of eight, four rows from `4 * j`.
#[inline(always)]
fn places<const BITS: usize>(tile: &Tile<BITS>, line: usize, j: usize) -> uint8x16_t {
    // The `width` bits that line number `number` has in a line that several share.
    let bits = |shared: &[u8; 4 * TILE_ROWS], number: usize, width: usize| {
        // SAFETY: 16 of 64 bytes from `16 * j` are readable; NEON is part of every aarch64 core.
        unsafe {
            let down = vdupq_n_s8(-((number * width) as i8));
            vandq_u8(vshlq_u8(vld1q_u8(shared.as_ptr().add(16 * j)), down), vdupq_n_u8((1 << width) - 1))
        }
    };
    // SAFETY: NEON is part of every aarch64 core.
    let join = |low, high, width: i8| unsafe { vorrq_u8(low, vshlq_u8(high, vdupq_n_s8(width))) };
    match BITS {
        2 => bits(&tile[line / 4], line % 4, 2),
        3 => join(bits(&tile[line / 4], line % 4, 2), bits(&tile[2], line, 1), 2),
        5 => join(bits(&tile[line / 2], line % 2, 4), bits(&tile[4], line, 1), 4),
        _ => join(bits(&tile[line / 2], line % 2, 4), bits(&tile[4 + line / 4], line % 4, 2), 4),
    }
}

impl<'a, const BITS: usize> From<Coded<'a, BITS>> for Planes<'a, PlaneCodes<BITS>> {
    fn from(q: Coded<'a, BITS>) -> Self {
        let mut levels = [0; 64];
        for (table, &level) in levels.iter_mut().zip(q.levels) {
            *table = level;
        }
        let at = levels.as_ptr();
        // SAFETY: 64 readable bytes; NEON is part of every aarch64 core.
        let codes = unsafe {
            let table = int8x16x4_t(vld1q_s8(at), vld1q_s8(at.add(16)), vld1q_s8(at.add(32)), vld1q_s8(at.add(48)));
            PlaneCodes { table, shift: vdupq_n_s8(q.shift) }
        };
        Planes { codes, row_scales: q.row_scales, sub_scales: q.sub_scales, tiles: q.tiles }
    }
}
