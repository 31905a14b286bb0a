//! Codes of 2, 3, 5 and 6 bits for [`vnni`](super::vnni): the words of a tile from its planes.
//!
//! With VBMI one instruction looks up 64 codes of 6 bits, whatever lies in the bits above them. Without it look-ups are of sixteen
//! levels, as for 4-bit codes, and the bits above the fourth are masks that choose between their results.

use super::vnni::{self, Vectors, products};
use crate::quant::planes::Tile;
use crate::quant::{Coded, Planes, TILE_ROWS, q3, q5, q6};
use crate::rows::RowsMut;
use core::arch::asm;
use core::arch::x86_64::*;

/// See [`crate::portable::matmul`].
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn matmul(planes: &Planes<'_>, x: Vectors<'_>, out: RowsMut<'_>) {
    let has_vbmi = std::is_x86_feature_detected!("avx512vbmi");
    match planes {
        Planes::Q3(q) if has_vbmi => {
            let table = whole(q.levels);
            coded::<128, 3>(q, x, out, move |tile, w| look_up_whole(code_q3(tile, w), table));
        }
        Planes::Q3(q) => {
            let [table] = biased([q3::table(q.levels)]);
            coded::<128, 3>(q, x, out, move |tile, w| word_q3(tile, w, table));
        }
        Planes::Q5(q) if has_vbmi => {
            let table = whole(q.levels);
            coded::<128, 5>(q, x, out, move |tile, w| look_up_whole(code_q5(tile, w), table));
        }
        Planes::Q5(q) => {
            let tables = biased(q5::tables(q.levels));
            coded::<128, 5>(q, x, out, move |tile, w| word_q5(tile, w, tables));
        }
        Planes::Q6(q) if has_vbmi => {
            let table = whole(q.levels);
            coded::<128, 6>(q, x, out, move |tile, w| look_up_whole(code_q6(tile, w), table));
        }
        Planes::Q6(q) => {
            let tables = biased(q6::tables(q.levels));
            coded::<128, 6>(q, x, out, move |tile, w| word_q6(tile, w, tables));
        }
        // The codes are their levels plus one.
        Planes::T2(q) => coded::<1, 2>(q, x, out, |tile, w| code_t2(tile, w)),
    }
}

/// `word` gives each of the eight words of a tile plus `BIAS`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn coded<const BIAS: i32, const BITS: usize>(
    q: &Coded<'_, BITS>,
    x: Vectors<'_>,
    out: RowsMut<'_>,
    word: impl Fn(&Tile<BITS>, usize) -> __m512i + Copy,
) {
    let one = _mm512_set1_epi32(1);
    // The second table is the first plus `shift`: rows that pick it start `shift * sum(x)` higher.
    let start = |shift: i8| _mm512_set1_epi32((i32::from(shift) - BIAS) & 0xffff);
    let (first, second) = (start(0), start(q.shift));
    let planes = vnni::Planes { row_scales: q.row_scales, sub_scales: q.sub_scales, tiles: q.tiles };
    products(&planes, x, out, word, move |sub| {
        let picks = _mm512_test_epi32_mask(sub, one);
        (_mm512_mask_mov_epi32(first, picks, second), _mm512_srai_epi32::<1>(sub))
    });
}

/// A table of up to 64 levels plus 128, again and again where it is shorter.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn whole(levels: &[i8]) -> __m512i {
    let mut table = [0i8; 64];
    for (level, &from) in table.iter_mut().zip(levels.iter().cycle()) {
        *level = from;
    }
    // SAFETY: 64 readable bytes; the load asks for no alignment.
    _mm512_xor_si512(unsafe { _mm512_loadu_si512(table.as_ptr().cast()) }, _mm512_set1_epi8(-128))
}

/// Levels by the lower six bits of each byte; for a CPU with VBMI.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn look_up_whole(code: __m512i, table: __m512i) -> __m512i {
    let level;
    // SAFETY: the caller asked the CPU for VBMI; the instruction reads and writes registers alone. It is written out because the
    // compiler inlines nothing that needs VBMI into the products, which do without.
    unsafe {
        asm!(
            "vpermb {}, {}, {}",
            lateout(zmm_reg) level,
            in(zmm_reg) code,
            in(zmm_reg) table,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    level
}

/// Tables of levels plus 128, one in each quarter of a register.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn biased<const N: usize>(tables: [[i8; 16]; N]) -> [__m512i; N] {
    let mut registers = [_mm512_setzero_si512(); N];
    for (register, table) in registers.iter_mut().zip(&tables) {
        // SAFETY: `table` is 16 readable bytes; the load asks for no alignment.
        let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
        *register = _mm512_xor_si512(_mm512_broadcast_i32x4(table), _mm512_set1_epi8(-128));
    }
    registers
}

/// A line of a tile.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load(line: &[u8; 4 * TILE_ROWS]) -> __m512i {
    // SAFETY: 64 readable bytes; the load asks for no alignment.
    unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
}

/// Moves the bits of each byte up, or down where `by` is negative; bits of the neighbouring byte come in behind them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn shifted(x: __m512i, by: i32) -> __m512i {
    match by {
        4 => _mm512_slli_epi16::<4>(x),
        3 => _mm512_slli_epi16::<3>(x),
        2 => _mm512_slli_epi16::<2>(x),
        1 => _mm512_slli_epi16::<1>(x),
        -1 => _mm512_srli_epi16::<1>(x),
        -2 => _mm512_srli_epi16::<2>(x),
        -3 => _mm512_srli_epi16::<3>(x),
        -4 => _mm512_srli_epi16::<4>(x),
        -5 => _mm512_srli_epi16::<5>(x),
        -6 => _mm512_srli_epi16::<6>(x),
        _ => x,
    }
}

/// Bits of each byte: those of `mask` from `a`, the others from `b`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn merge(a: __m512i, b: __m512i, mask: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0xca>(mask, a, b)
}

/// Word `w` of the 4-bit plane in the lower half of each byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn low_nibbles(tile: &[[u8; 4 * TILE_ROWS]], w: usize) -> __m512i {
    shifted(load(&tile[w / 2]), -4 * (w % 2) as i32)
}

/// Codes in the lower three bits of each byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn code_q3(tile: &Tile<3>, w: usize) -> __m512i {
    let low = shifted(load(&tile[w / 4]), -2 * (w % 4) as i32);
    merge(low, shifted(load(&tile[2]), 2 - w as i32), _mm512_set1_epi8(3))
}

/// Codes in the lower five bits of each byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn code_q5(tile: &Tile<5>, w: usize) -> __m512i {
    merge(low_nibbles(tile, w), shifted(load(&tile[4]), 4 - w as i32), _mm512_set1_epi8(15))
}

/// Codes in the lower six bits of each byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn code_q6(tile: &Tile<6>, w: usize) -> __m512i {
    merge(low_nibbles(tile, w), shifted(load(&tile[4 + w / 4]), 4 - 2 * (w % 4) as i32), _mm512_set1_epi8(15))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn code_t2(tile: &Tile<2>, w: usize) -> __m512i {
    _mm512_and_si512(shifted(load(&tile[w / 4]), -2 * (w % 4) as i32), _mm512_set1_epi8(3))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn word_q3(tile: &Tile<3>, w: usize, table: __m512i) -> __m512i {
    _mm512_shuffle_epi8(table, _mm512_and_si512(code_q3(tile, w), _mm512_set1_epi8(7)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn word_q5(tile: &Tile<5>, w: usize, tables: [__m512i; 2]) -> __m512i {
    let low = _mm512_and_si512(low_nibbles(tile, w), _mm512_set1_epi8(15));
    look_up(low, tables, _mm512_test_epi8_mask(load(&tile[4]), _mm512_set1_epi8((1u8 << w) as i8)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn word_q6(tile: &Tile<6>, w: usize, [a, b, c, d]: [__m512i; 4]) -> __m512i {
    let low = _mm512_and_si512(low_nibbles(tile, w), _mm512_set1_epi8(15));
    let (high, at) = (load(&tile[4 + w / 4]), 2 * (w % 4));
    let is_odd = _mm512_test_epi8_mask(high, _mm512_set1_epi8((1u8 << at) as i8));
    let is_upper = _mm512_test_epi8_mask(high, _mm512_set1_epi8((2u8 << at) as i8));
    _mm512_mask_mov_epi8(look_up(low, [a, b], is_odd), is_upper, look_up(low, [c, d], is_odd))
}

/// Levels from the first table, or the second where the mask says so.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn look_up(low: __m512i, [lower, upper]: [__m512i; 2], is_upper: __mmask64) -> __m512i {
    _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(lower, low), is_upper, upper, low)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The products take one of two ways, as the CPU has VBMI or not: where it has, both are compared here.
    #[test]
    fn both_ways_to_look_up_agree() {
        if crate::x86::avx512_vnni().is_none() || !std::is_x86_feature_detected!("avx512vbmi") {
            return;
        }
        let byte = |i: usize| (i as u32).wrapping_mul(2_654_435_761).rotate_left(9) as u8;
        let levels: [i8; 64] = core::array::from_fn(|i| byte(i) as i8);
        for seed in 0..50 {
            let line = |l: usize| core::array::from_fn(|i| byte(seed * 1000 + l * 64 + i));
            // SAFETY: the CPU has what the table of VNNI asks for.
            unsafe { compare(&levels, core::array::from_fn(line), core::array::from_fn(line), core::array::from_fn(line)) };
        }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn compare(levels: &[i8], q3_tile: Tile<3>, q5_tile: Tile<5>, q6_tile: Tile<6>) {
        let bytes = |word: __m512i| {
            let mut bytes = [0u8; 64];
            // SAFETY: 64 writable bytes; the store asks for no alignment.
            unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), word) };
            bytes
        };
        let [table] = biased([q3::table(&levels[..8])]);
        let (halves, quarters) = (biased(q5::tables(&levels[..32])), biased(q6::tables(levels)));
        for w in 0..8 {
            let by_vbmi = |code, levels: &[i8]| bytes(look_up_whole(code, whole(levels)));
            assert_eq!(by_vbmi(code_q3(&q3_tile, w), &levels[..8]), bytes(word_q3(&q3_tile, w, table)));
            assert_eq!(by_vbmi(code_q5(&q5_tile, w), &levels[..32]), bytes(word_q5(&q5_tile, w, halves)));
            assert_eq!(by_vbmi(code_q6(&q6_tile, w), levels), bytes(word_q6(&q6_tile, w, quarters)));
        }
    }
}
