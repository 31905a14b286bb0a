//! Codes of 2, 3, 5 and 6 bits for [`vnni`](super::vnni): eight words of a tile from its planes.
//!
//! Look-ups are of sixteen levels, as for 4-bit codes; the bits above the fourth are masks that choose between their results.

use super::vnni::{Vectors, tile_rows};
use crate::quant::planes::Tile;
use crate::quant::{Coded, Planes, TILE_ROWS, q3, q5, q6};
use crate::rows::RowsMut;
use core::arch::x86_64::*;

/// See [`crate::portable::matmul`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn matmul(planes: &Planes<'_>, x: Vectors<'_>, out: RowsMut<'_>) {
    match planes {
        Planes::Q3(q) => {
            let [table] = biased([q3::table(q.levels)]);
            coded::<128, 3>(q, x, out, |tile| expand_q3(tile, table));
        }
        Planes::Q5(q) => {
            let tables = biased(q5::tables(q.levels));
            coded::<128, 5>(q, x, out, |tile| expand_q5(tile, tables));
        }
        Planes::Q6(q) => {
            let tables = biased(q6::tables(q.levels));
            coded::<128, 6>(q, x, out, |tile| expand_q6(tile, tables));
        }
        // The codes are their levels plus one.
        Planes::T2(q) => coded::<1, 2>(q, x, out, |tile| expand_t2(tile)),
    }
}

/// `expand` gives the words plus `BIAS`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn coded<const BIAS: i32, const BITS: usize>(
    q: &Coded<'_, BITS>,
    x: Vectors<'_>,
    out: RowsMut<'_>,
    expand: impl Fn(&Tile<BITS>) -> [__m512i; 8],
) {
    let (one, low_half) = (_mm512_set1_epi32(1), _mm512_set1_epi32(0xffff));
    let start = _mm512_set1_epi32(-BIAS);
    let shift = _mm512_set1_epi32(i32::from(q.shift));
    tile_rows(x, out, q.row_scales, q.sub_scales, q.tiles, expand, |sub| {
        // The second table is the first plus `shift`: rows that pick it start `shift * sum(x)` higher.
        let picks = _mm512_test_epi32_mask(sub, one);
        let start = _mm512_mask_add_epi32(start, picks, start, shift);
        (_mm512_and_si512(start, low_half), _mm512_srai_epi32::<1>(sub))
    });
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

/// The lower four bits of the codes of words `2 * line` and `2 * line + 1`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn nibbles(line: __m512i) -> [__m512i; 2] {
    let low = _mm512_set1_epi8(15);
    [_mm512_and_si512(line, low), _mm512_and_si512(_mm512_srli_epi16::<4>(line), low)]
}

/// The same bits of each byte, those of `mask` from `a` and the others from `b`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn merge(a: __m512i, b: __m512i, mask: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0xca>(mask, a, b)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn expand_q3(tile: &Tile<3>, table: __m512i) -> [__m512i; 8] {
    let high = load(&tile[2]);
    // Bit 2 of each byte is the highest of a code.
    let highs = [
        _mm512_slli_epi16::<2>(high),
        _mm512_slli_epi16::<1>(high),
        high,
        _mm512_srli_epi16::<1>(high),
        _mm512_srli_epi16::<2>(high),
        _mm512_srli_epi16::<3>(high),
        _mm512_srli_epi16::<4>(high),
        _mm512_srli_epi16::<5>(high),
    ];
    let (low_bits, code_bits) = (_mm512_set1_epi8(3), _mm512_set1_epi8(7));
    let mut words = [_mm512_setzero_si512(); 8];
    for (half, words) in words.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let low = load(&tile[half]);
        let lows = [low, _mm512_srli_epi16::<2>(low), _mm512_srli_epi16::<4>(low), _mm512_srli_epi16::<6>(low)];
        for (i, (word, low)) in words.iter_mut().zip(lows).enumerate() {
            let code = _mm512_and_si512(merge(low, highs[4 * half + i], low_bits), code_bits);
            *word = _mm512_shuffle_epi8(table, code);
        }
    }
    words
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn expand_q5(tile: &Tile<5>, tables: [__m512i; 2]) -> [__m512i; 8] {
    let high = load(&tile[4]);
    let mut words = [_mm512_setzero_si512(); 8];
    for (pair, words) in words.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        for (i, (word, low)) in words.iter_mut().zip(nibbles(load(&tile[pair]))).enumerate() {
            let is_upper = _mm512_test_epi8_mask(high, _mm512_set1_epi8((1u8 << (2 * pair + i)) as i8));
            *word = look_up(low, tables, is_upper);
        }
    }
    words
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn expand_q6(tile: &Tile<6>, tables: [__m512i; 4]) -> [__m512i; 8] {
    let highs = [load(&tile[4]), load(&tile[5])];
    let [a, b, c, d] = tables;
    let mut words = [_mm512_setzero_si512(); 8];
    for (pair, words) in words.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        for (i, (word, low)) in words.iter_mut().zip(nibbles(load(&tile[pair]))).enumerate() {
            let (high, at) = (highs[pair / 2], 2 * (2 * (pair % 2) + i));
            let is_odd = _mm512_test_epi8_mask(high, _mm512_set1_epi8((1u8 << at) as i8));
            let is_upper = _mm512_test_epi8_mask(high, _mm512_set1_epi8((2u8 << at) as i8));
            *word = _mm512_mask_mov_epi8(look_up(low, [a, b], is_odd), is_upper, look_up(low, [c, d], is_odd));
        }
    }
    words
}

/// Levels from the first table, or the second where the mask says so.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn look_up(low: __m512i, [lower, upper]: [__m512i; 2], is_upper: __mmask64) -> __m512i {
    _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(lower, low), is_upper, upper, low)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn expand_t2(tile: &Tile<2>) -> [__m512i; 8] {
    let bits = _mm512_set1_epi8(3);
    let mut words = [_mm512_setzero_si512(); 8];
    for (words, line) in words.as_chunks_mut::<4>().0.iter_mut().zip(tile) {
        let codes = load(line);
        words[0] = _mm512_and_si512(codes, bits);
        words[1] = _mm512_and_si512(_mm512_srli_epi16::<2>(codes), bits);
        words[2] = _mm512_and_si512(_mm512_srli_epi16::<4>(codes), bits);
        words[3] = _mm512_and_si512(_mm512_srli_epi16::<6>(codes), bits);
    }
    words
}
