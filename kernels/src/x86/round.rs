//! Rounding of activations to int8, a group of 32 in two registers.

use crate::portable;
use crate::quant::GROUP;
use core::arch::x86_64::*;

/// See [`portable::quantize_activations`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn quantize_activations(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    let magic = _mm512_set1_ps(portable::act::ROUND);
    let flip = _mm256_set1_epi8(-128);
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
        let largest = largest(low, high);
        // Both quotients of a group in one division: (largest, 127) / (127, largest), or nothing where the group is silent.
        let largest_or_127 = _mm_unpacklo_ps(largest, _mm_set1_ps(127.0));
        let over = _mm_unpacklo_ps(_mm_set1_ps(127.0), largest);
        let heard = _mm_cmp_ps_mask::<_CMP_GE_OQ>(largest, _mm_set1_ps(portable::SILENT));
        let quotients = _mm_maskz_div_ps(heard, largest_or_127, over);
        *scale = _mm_cvtss_f32(quotients);
        let inverse = _mm512_broadcastss_ps(_mm_movehdup_ps(quotients));
        let round = |x: __m512| _mm512_cvtepi32_epi8(_mm512_castps_si512(_mm512_add_ps(_mm512_mul_ps(x, inverse), magic)));
        let rounded = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(round(low)), round(high));
        // SAFETY: `codes` is 32 writable bytes; the store asks for no alignment.
        unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), rounded) };
        // Sums of eight bytes are of unsigned ones: each code enters 128 too high.
        let eights = _mm256_sad_epu8(_mm256_xor_si256(rounded, flip), _mm256_setzero_si256());
        let pairs = _mm_add_epi64(_mm256_castsi256_si128(eights), _mm256_extracti128_si256::<1>(eights));
        *sum = _mm_cvtsi128_si32(_mm_add_epi64(pairs, _mm_unpackhi_epi64(pairs, pairs))) - 128 * GROUP as i32;
    }
}

/// The largest magnitude of 32 numbers, in every lane; a NaN counts as nothing.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn largest(low: __m512, high: __m512) -> __m128 {
    // Where an operand is NaN, the second is taken.
    let m = _mm512_max_ps(_mm512_abs_ps(low), _mm512_setzero_ps());
    let m = _mm512_max_ps(_mm512_abs_ps(high), m);
    let m = _mm256_max_ps(_mm512_castps512_ps256(m), _mm512_extractf32x8_ps::<1>(m));
    let m = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps::<1>(m));
    let m = _mm_max_ps(m, _mm_permute_ps::<0b01_00_11_10>(m));
    _mm_max_ps(m, _mm_permute_ps::<0b10_11_00_01>(m))
}
