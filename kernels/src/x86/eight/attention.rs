//! Attention over an 8-bit cache: products of pairs of 16-bit numbers, and their sums, by one instruction. The rest is the portable kernel, compiled for
//! AVX2.

use crate::portable::{self, Plain, Products, reduce::LANES};
use crate::table::Attention;
use core::arch::x86_64::*;

/// See [`portable::attend`].
#[target_feature(enable = "avx2")]
pub(in crate::x86) fn attend(a: &Attention<'_>, scores: &mut [f32], out: &mut [f32]) {
    portable::attend::<Pairs>(a, scores, out);
}

/// Products by `vpmaddwd`: only in functions that are compiled for AVX2.
enum Pairs {}

impl Products for Pairs {
    #[inline(always)]
    fn dot(q: &[i16], key: &[i8]) -> i32 {
        // SAFETY: a table with this in it is handed out only for CPUs with AVX2.
        unsafe { dot(q, key) }
    }

    #[inline(always)]
    fn columns(weights: &[i16], values: &[i8], width: usize) -> [i32; LANES] {
        // SAFETY: as above.
        unsafe { columns(weights, values, width) }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn dot(q: &[i16], key: &[i8]) -> i32 {
    let len = q.len().min(key.len());
    let ((q_chunks, q_rest), (key_chunks, key_rest)) = (q[..len].as_chunks(), key[..len].as_chunks());
    let mut sums = _mm256_setzero_si256();
    for (q, key) in q_chunks.iter().zip(key_chunks) {
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(load_words(q), _mm256_cvtepi8_epi16(load_bytes(key))));
    }
    let four = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b00_00_11_10>(four));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b00_00_00_01>(two))) + Plain::dot(q_rest, key_rest)
}

/// Two rows at a time: their numbers of a column stand next to each other.
#[inline]
#[target_feature(enable = "avx2")]
fn columns(weights: &[i16], values: &[i8], width: usize) -> [i32; LANES] {
    if values.len() < weights.len().saturating_sub(1) * width + LANES {
        return Plain::columns(weights, values, width);
    }
    // SAFETY: of as many rows as there are weights sixteen numbers are there.
    let row = |j: usize| unsafe { _mm_loadu_si128(values.as_ptr().add(j * width).cast()) };
    let (pairs, rest) = weights.as_chunks();
    let (mut low, mut high) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    let mut step = |[first, second]: [i16; 2], a: __m128i, b: __m128i| {
        let weights = _mm256_set1_epi32(i32::from(second) << 16 | i32::from(first as u16));
        low = _mm256_add_epi32(low, _mm256_madd_epi16(weights, _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(a, b))));
        high = _mm256_add_epi32(high, _mm256_madd_epi16(weights, _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(a, b))));
    };
    for (i, pair) in pairs.iter().enumerate() {
        step(*pair, row(2 * i), row(2 * i + 1));
    }
    if let [last] = rest {
        step([*last, 0], row(2 * pairs.len()), _mm_setzero_si128());
    }
    let mut sums = [0; LANES];
    for (sums, lanes) in sums.as_chunks_mut::<8>().0.iter_mut().zip([low, high]) {
        // SAFETY: 8 writable integers; the store asks for no alignment.
        unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), lanes) };
    }
    sums
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_words(x: &[i16; 16]) -> __m256i {
    // SAFETY: 32 readable bytes; the load asks for no alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_bytes(x: &[i8; 16]) -> __m128i {
    // SAFETY: 16 readable bytes; the load asks for no alignment.
    unsafe { _mm_loadu_si128(x.as_ptr().cast()) }
}
