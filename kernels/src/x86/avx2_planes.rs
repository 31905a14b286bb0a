//! Codes of 2 to 6 bits for [`avx2`](super::avx2): half `h`, eight rows, of word `w` of a tile, from its planes.

use super::avx2::half;
use crate::quant::TILE_ROWS;
use crate::quant::planes::Tile;
use core::arch::x86_64::*;

/// Tables of levels plus `bias`, one in each half of a register.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn tables<const N: usize>(tables: [[i8; 16]; N], bias: i32) -> [__m256i; N] {
    let mut registers = [_mm256_setzero_si256(); N];
    for (register, table) in registers.iter_mut().zip(&tables) {
        // SAFETY: `table` is 16 readable bytes; the load asks for no alignment.
        let table = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) });
        *register = _mm256_add_epi8(table, _mm256_set1_epi8(bias as i8));
    }
    registers
}

/// Moves the bits of each byte up, or down where `by` is negative; bits of the neighbouring byte come in behind them.
#[inline]
#[target_feature(enable = "avx2")]
fn shifted(x: __m256i, by: i32) -> __m256i {
    match by {
        7 => _mm256_slli_epi16::<7>(x),
        6 => _mm256_slli_epi16::<6>(x),
        5 => _mm256_slli_epi16::<5>(x),
        4 => _mm256_slli_epi16::<4>(x),
        3 => _mm256_slli_epi16::<3>(x),
        2 => _mm256_slli_epi16::<2>(x),
        1 => _mm256_slli_epi16::<1>(x),
        -1 => _mm256_srli_epi16::<1>(x),
        -2 => _mm256_srli_epi16::<2>(x),
        -3 => _mm256_srli_epi16::<3>(x),
        -4 => _mm256_srli_epi16::<4>(x),
        -5 => _mm256_srli_epi16::<5>(x),
        -6 => _mm256_srli_epi16::<6>(x),
        _ => x,
    }
}

/// The bits of `mask` of each byte.
#[inline]
#[target_feature(enable = "avx2")]
fn and(x: __m256i, mask: i8) -> __m256i {
    _mm256_and_si256(x, _mm256_set1_epi8(mask))
}

/// From `upper` where a byte of `highest` has its highest bit, else from `lower`.
#[inline]
#[target_feature(enable = "avx2")]
fn choose(lower: __m256i, upper: __m256i, highest: __m256i) -> __m256i {
    _mm256_blendv_epi8(lower, upper, highest)
}

/// The 4-bit plane.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn nibbles(tile: &[[u8; 4 * TILE_ROWS]], w: usize, h: usize) -> __m256i {
    and(shifted(half(&tile[w / 2], h), -4 * (w % 2) as i32), 15)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn code_q3(tile: &Tile<3>, w: usize, h: usize) -> __m256i {
    let low = shifted(half(&tile[w / 4], h), -2 * (w % 4) as i32);
    let high = shifted(half(&tile[2], h), 2 - w as i32);
    _mm256_or_si256(and(low, 3), and(high, 4))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn word_q5(tile: &Tile<5>, w: usize, h: usize, [lower, upper]: [__m256i; 2]) -> __m256i {
    let low = nibbles(tile, w, h);
    let is_upper = shifted(half(&tile[4], h), 7 - w as i32);
    choose(_mm256_shuffle_epi8(lower, low), _mm256_shuffle_epi8(upper, low), is_upper)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn word_q6(tile: &Tile<6>, w: usize, h: usize, [a, b, c, d]: [__m256i; 4]) -> __m256i {
    let low = nibbles(tile, w, h);
    let (high, at) = (half(&tile[4 + w / 4], h), 2 * (w % 4) as i32);
    let (is_odd, is_upper) = (shifted(high, 7 - at), shifted(high, 6 - at));
    let lower = choose(_mm256_shuffle_epi8(a, low), _mm256_shuffle_epi8(b, low), is_odd);
    let upper = choose(_mm256_shuffle_epi8(c, low), _mm256_shuffle_epi8(d, low), is_odd);
    choose(lower, upper, is_upper)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn code_t2(tile: &Tile<2>, w: usize, h: usize) -> __m256i {
    and(shifted(half(&tile[w / 4], h), -2 * (w % 4) as i32), 3)
}
