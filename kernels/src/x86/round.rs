//! Rounding of activations to int8, a group of 32 in two registers or four.

use crate::portable;
use crate::quant::GROUP;
use core::arch::x86_64::*;

/// See [`portable::quantize_activations`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn quantize_activations_512(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    let magic = _mm512_set1_ps(portable::act::ROUND);
    for (g, ((codes, scale), sum)) in codes.as_chunks_mut::<GROUP>().0.iter_mut().zip(scales).zip(sums).enumerate() {
        let x = x.get(g * GROUP..).unwrap_or_default();
        let (low, high) = match x.first_chunk::<GROUP>() {
            // SAFETY: 32 readable floats; the loads ask for no alignment.
            Some(x) => unsafe { (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))) },
            None => {
                let mask = (1u32 << x.len()) - 1;
                // SAFETY: the masks let no more than the `x.len()` floats through.
                unsafe {
                    (
                        _mm512_maskz_loadu_ps(mask as u16, x.as_ptr()),
                        _mm512_maskz_loadu_ps((mask >> 16) as u16, x.as_ptr().wrapping_add(16)),
                    )
                }
            }
        };
        // Where an operand is NaN, the second is taken.
        let m = _mm512_max_ps(_mm512_abs_ps(low), _mm512_setzero_ps());
        let m = _mm512_max_ps(_mm512_abs_ps(high), m);
        let (largest_over_127, inverse) = quotients(_mm256_max_ps(_mm512_castps512_ps256(m), _mm512_extractf32x8_ps::<1>(m)));
        *scale = _mm_cvtss_f32(largest_over_127);
        let inverse = _mm512_broadcastss_ps(inverse);
        let round = |x: __m512| _mm512_cvtepi32_epi8(_mm512_castps_si512(_mm512_add_ps(_mm512_mul_ps(x, inverse), magic)));
        let rounded = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(round(low)), round(high));
        // SAFETY: `codes` is 32 writable bytes; the store asks for no alignment.
        unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), rounded) };
        *sum = sum_of_codes(rounded);
    }
}

/// The same with AVX2.
#[target_feature(enable = "avx2")]
pub(super) fn quantize_activations_256(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    let magic = _mm256_set1_ps(portable::act::ROUND);
    let magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(i32::MAX));
    let lowest_byte = _mm256_set1_epi32(0xff);
    for (g, ((codes, scale), sum)) in codes.as_chunks_mut::<GROUP>().0.iter_mut().zip(scales).zip(sums).enumerate() {
        let x = x.get(g * GROUP..).unwrap_or_default();
        let mut padded = [0.0; GROUP];
        let x = x.first_chunk::<GROUP>().unwrap_or_else(|| {
            for (padded, x) in padded.iter_mut().zip(x) {
                *padded = *x;
            }
            &padded
        });
        // SAFETY: 32 readable floats; the loads ask for no alignment.
        let x = [0, 8, 16, 24].map(|at| unsafe { _mm256_loadu_ps(x.as_ptr().add(at)) });
        let mut m = _mm256_setzero_ps();
        for x in x {
            m = _mm256_max_ps(_mm256_and_ps(x, magnitude), m);
        }
        let (largest_over_127, inverse) = quotients(m);
        *scale = _mm_cvtss_f32(largest_over_127);
        let inverse = _mm256_broadcastss_ps(inverse);
        // The lowest bytes are the codes; packing keeps them, but goes by halves of registers.
        let mut bits = [_mm256_setzero_si256(); 4];
        for (bits, x) in bits.iter_mut().zip(x) {
            *bits = _mm256_and_si256(_mm256_castps_si256(_mm256_add_ps(_mm256_mul_ps(x, inverse), magic)), lowest_byte);
        }
        let mixed = _mm256_packus_epi16(_mm256_packus_epi32(bits[0], bits[1]), _mm256_packus_epi32(bits[2], bits[3]));
        let rounded = _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        // SAFETY: `codes` is 32 writable bytes; the store asks for no alignment.
        unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), rounded) };
        *sum = sum_of_codes(rounded);
    }
}

/// `(largest / 127, 127 / largest)` of eight magnitudes, in the lowest lanes; zeros where the group is silent.
#[inline]
#[target_feature(enable = "avx2")]
fn quotients(magnitudes: __m256) -> (__m128, __m128) {
    let m = _mm_max_ps(_mm256_castps256_ps128(magnitudes), _mm256_extractf128_ps::<1>(magnitudes));
    let m = _mm_max_ps(m, _mm_permute_ps::<0b01_00_11_10>(m));
    let largest = _mm_max_ps(m, _mm_permute_ps::<0b10_11_00_01>(m));
    // Both in one division.
    let full = _mm_set1_ps(127.0);
    let quotients = _mm_div_ps(_mm_unpacklo_ps(largest, full), _mm_unpacklo_ps(full, largest));
    let quotients = _mm_and_ps(quotients, _mm_cmpge_ps(largest, _mm_set1_ps(portable::SILENT)));
    (quotients, _mm_movehdup_ps(quotients))
}

#[inline]
#[target_feature(enable = "avx2")]
fn sum_of_codes(codes: __m256i) -> i32 {
    // Eight unsigned bytes are added at once: each code enters 128 too high.
    let eights = _mm256_sad_epu8(_mm256_xor_si256(codes, _mm256_set1_epi8(-128)), _mm256_setzero_si256());
    let pairs = _mm_add_epi64(_mm256_castsi256_si128(eights), _mm256_extracti128_si256::<1>(eights));
    _mm_cvtsi128_si32(_mm_add_epi64(pairs, _mm_unpackhi_epi64(pairs, pairs))) - 128 * GROUP as i32
}
