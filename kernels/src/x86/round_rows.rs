//! Rounding of many groups of activations to int8, four side by side: a group alone would wait for its largest number and its division.

use crate::portable;
use crate::quant::GROUP;
use crate::rows::Rows;
use core::arch::x86_64::*;

/// Groups side by side.
const GROUPS: usize = 4;

/// See [`portable::quantize_activations`]; the planes are (rows, groups).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn quantize_rows(x: Rows<'_>, codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    let width = x.width();
    let groups = width.div_ceil(GROUP).max(1);
    let planes = codes.as_chunks_mut::<GROUP>().0;
    let count = planes.len().min(scales.len()).min(sums.len()).min(x.rows() * groups);
    let planes = &mut planes[..count];
    // Where the next group begins, and what its row has left: nothing behind the last group.
    let (mut at, mut left, mut next_row) = (x.row(0).as_ptr(), width, 1);
    for first in (0..count).step_by(GROUPS) {
        let (mut low, mut high) = ([_mm512_setzero_ps(); GROUPS], [_mm512_setzero_ps(); GROUPS]);
        for i in 0..GROUPS {
            let mask = if left < GROUP { (1u32 << left) - 1 } else { u32::MAX };
            // SAFETY: the masks let no more numbers through than the row has left.
            unsafe {
                low[i] = _mm512_maskz_loadu_ps(mask as u16, at);
                high[i] = _mm512_maskz_loadu_ps((mask >> 16) as u16, at.wrapping_add(16));
            }
            if left > GROUP {
                (at, left) = (at.wrapping_add(GROUP), left - GROUP);
            } else {
                let row = x.row(next_row);
                (at, left, next_row) = (row.as_ptr(), row.len(), next_row + 1);
            }
        }
        let (rounded, scale, sum) = four(low, high);
        for i in 0..GROUPS {
            if let Some(plane) = planes.get_mut(first + i) {
                // SAFETY: a group is 32 writable bytes; the store asks for no alignment.
                unsafe { _mm256_storeu_si256(plane.as_mut_ptr().cast(), rounded[i]) };
            }
        }
        let mask = if count - first < GROUPS { (1u8 << (count - first)) - 1 } else { u8::MAX };
        // SAFETY: the mask lets as many numbers through as there are groups left in both planes.
        unsafe {
            _mm_mask_storeu_ps(scales.as_mut_ptr().add(first), mask, scale);
            _mm_mask_storeu_epi32(sums.as_mut_ptr().add(first), mask, sum);
        }
    }
}

/// Codes, scales and sums of codes of four groups.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn four(low: [__m512; GROUPS], high: [__m512; GROUPS]) -> ([__m256i; GROUPS], __m128, __m128i) {
    let mut m = [_mm512_setzero_ps(); GROUPS];
    for i in 0..GROUPS {
        // Where an operand is NaN, the second is taken.
        m[i] = _mm512_max_ps(_mm512_abs_ps(high[i]), _mm512_max_ps(_mm512_abs_ps(low[i]), m[i]));
    }
    let halves = |a, b| _mm512_max_ps(_mm512_shuffle_f32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b));
    let (a, b) = (halves(m[0], m[1]), halves(m[2], m[3]));
    // Four lanes a group.
    let m = _mm512_max_ps(_mm512_shuffle_f32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b));
    let m = _mm512_max_ps(m, _mm512_permute_ps::<0b01_00_11_10>(m));
    let largest = _mm512_max_ps(m, _mm512_permute_ps::<0b10_11_00_01>(m));
    let is_loud = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(largest, _mm512_set1_ps(portable::SILENT));
    let full = _mm512_set1_ps(127.0);
    let (scale, inverse) = (_mm512_maskz_div_ps(is_loud, largest, full), _mm512_maskz_div_ps(is_loud, full, largest));
    let inverse = [
        _mm512_shuffle_f32x4::<0b00_00_00_00>(inverse, inverse),
        _mm512_shuffle_f32x4::<0b01_01_01_01>(inverse, inverse),
        _mm512_shuffle_f32x4::<0b10_10_10_10>(inverse, inverse),
        _mm512_shuffle_f32x4::<0b11_11_11_11>(inverse, inverse),
    ];
    let (magic, lowest_byte) = (_mm512_set1_ps(portable::act::ROUND), _mm512_set1_epi32(0xff));
    let bits =
        |x: __m512, inverse: __m512| _mm512_and_si512(_mm512_castps_si512(_mm512_add_ps(_mm512_mul_ps(x, inverse), magic)), lowest_byte);
    // Packing goes by quarters of registers: fours of the first number's half, of the second's, and so on.
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let two = |i: usize| {
        let words = |i: usize| _mm512_packus_epi32(bits(low[i], inverse[i]), bits(high[i], inverse[i]));
        _mm512_permutexvar_epi32(order, _mm512_packus_epi16(words(i), words(i + 1)))
    };
    let (first, second) = (two(0), two(2));
    // Eight unsigned bytes are added at once: each code enters 128 too high.
    let eights = |codes| _mm512_sad_epu8(_mm512_xor_si512(codes, _mm512_set1_epi8(-128)), _mm512_setzero_si512());
    let (a, b) = (eights(first), eights(second));
    let pairs = _mm512_add_epi64(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    let fours = _mm512_add_epi64(pairs, _mm512_shuffle_i64x2::<0b10_11_00_01>(pairs, pairs));
    let sums = _mm512_castsi512_si128(_mm512_permutexvar_epi32(_mm512_setr_epi32(0, 8, 2, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), fours));
    let scales = _mm512_castps512_ps128(_mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), scale));
    let halves = |x| [_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64::<1>(x)];
    let ([a, b], [c, d]) = (halves(first), halves(second));
    ([a, b, c, d], scales, _mm_sub_epi32(sums, _mm_set1_epi32(128 * GROUP as i32)))
}
