//! How codes of 2, 3, 5 and 6 bits come to registers: a look-up reads up to four of them as one table.

use super::codes::{Codes, Lines, Planes};
use crate::quant::planes::Tile;
use crate::quant::{Coded, TILE_ROWS};
use core::arch::aarch64::*;

/// Codes of `BITS` bits in planes are places in a table; those of two are their levels plus one.
#[derive(Clone, Copy)]
pub(super) struct PlaneCodes<const BITS: usize> {
    table: int8x16x4_t,
    shift: int8x16_t,
}

impl<const BITS: usize> PlaneCodes<BITS> {
    /// Levels of rows `4 j..4 j + 4` in word `w`.
    #[inline(always)]
    fn levels(&self, tile: &Tile<BITS>, w: usize, j: usize) -> int8x16_t {
        // SAFETY: a line is 64 readable bytes and `j` below 4; NEON is part of every aarch64 core.
        unsafe {
            let (mut codes, mut before) = (vdupq_n_u8(0), 0);
            for width in [4, 2, 1] {
                if BITS & width == 0 {
                    continue;
                }
                let words = 8 / width;
                let line = vld1q_u8(tile[before + w / words].as_ptr().add(16 * j));
                let bits = vshlq_u8(line, vdupq_n_s8(-((w % words * width) as i8)));
                let bits = vandq_u8(bits, vdupq_n_u8((1 << width) - 1));
                codes = vorrq_u8(codes, vshlq_u8(bits, vdupq_n_s8(before as i8)));
                before += width;
            }
            let int8x16x4_t(a, b, _, _) = self.table;
            match BITS {
                2 => vsubq_s8(vreinterpretq_s8_u8(codes), vdupq_n_s8(1)),
                3 => vqtbl1q_s8(a, codes),
                5 => vqtbl2q_s8(int8x16x2_t(a, b), codes),
                _ => vqtbl4q_s8(self.table, codes),
            }
        }
    }
}

impl<const BITS: usize> Codes for PlaneCodes<BITS> {
    type Tile = Tile<BITS>;
    const AS_STORED: bool = false;

    #[inline(always)]
    fn lines(&self, tile: &Tile<BITS>, k: usize) -> Lines {
        [2 * k, 2 * k + 1].map(|w| [0, 1, 2, 3].map(|j| self.levels(tile, w, j)))
    }

    #[inline(always)]
    fn split(&self, sub_scales: &[i8; TILE_ROWS]) -> (int8x16_t, int8x16_t) {
        // SAFETY: 16 readable bytes; NEON is part of every aarch64 core.
        unsafe {
            let sub = vld1q_s8(sub_scales.as_ptr());
            // The lowest bit over the whole byte picks the table.
            let picks = vreinterpretq_s8_u8(vtstq_s8(sub, vdupq_n_s8(1)));
            (vandq_s8(picks, self.shift), vshrq_n_s8::<1>(sub))
        }
    }
}

impl<'a, const BITS: usize> From<Coded<'a, BITS>> for Planes<'a, PlaneCodes<BITS>> {
    fn from(q: Coded<'a, BITS>) -> Self {
        let mut table = [0i8; 64];
        for (level, &from) in table.iter_mut().zip(q.levels) {
            *level = from;
        }
        // SAFETY: the table is 64 readable bytes; NEON is part of every aarch64 core.
        let codes = unsafe {
            let at = table.as_ptr();
            let table = int8x16x4_t(vld1q_s8(at), vld1q_s8(at.add(16)), vld1q_s8(at.add(32)), vld1q_s8(at.add(48)));
            PlaneCodes { table, shift: vdupq_n_s8(q.shift) }
        };
        Planes { codes, row_scales: q.row_scales, sub_scales: q.sub_scales, tiles: q.tiles }
    }
}
