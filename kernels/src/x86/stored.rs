//! How a recurrent state stores its numbers, for registers of eight and of sixteen.

use crate::portable::stored::{self as portable, LARGEST_HALF};
use core::arch::x86_64::*;

/// A stored number, sixteen at a time.
pub(super) trait Cell: Copy + 'static {
    /// What the portable kernels do the same with.
    type Portable: portable::Stored<Cell = Self>;

    /// Sixteen numbers, or those that the mask lets through if `FULL` is not set.
    ///
    /// # Safety
    /// These numbers must be readable, and the CPU must have the features.
    unsafe fn load<const FULL: bool>(x: *const Self, mask: __mmask16) -> __m512;

    /// The reverse of [`Cell::load`]; numbers are rounded to what can be stored.
    ///
    /// # Safety
    /// These numbers must be writable, and the CPU must have the features.
    unsafe fn store<const FULL: bool>(x: *mut Self, mask: __mmask16, lanes: __m512);

    /// What a later load finds of numbers that are stored now.
    ///
    /// # Safety
    /// The CPU must have the features.
    unsafe fn found(lanes: __m512) -> __m512;
}

impl Cell for f32 {
    type Portable = portable::Whole;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn load<const FULL: bool>(x: *const f32, mask: __mmask16) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { if FULL { _mm512_loadu_ps(x) } else { _mm512_maskz_loadu_ps(mask, x) } }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn store<const FULL: bool>(x: *mut f32, mask: __mmask16, lanes: __m512) {
        // SAFETY: the caller's promise.
        unsafe { if FULL { _mm512_storeu_ps(x, lanes) } else { _mm512_mask_storeu_ps(x, mask, lanes) } }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn found(lanes: __m512) -> __m512 {
        lanes
    }
}

impl Cell for u16 {
    type Portable = portable::Half;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn load<const FULL: bool>(x: *const u16, mask: __mmask16) -> __m512 {
        // SAFETY: the caller's promise.
        _mm512_cvtph_ps(unsafe { if FULL { _mm256_loadu_si256(x.cast()) } else { _mm256_maskz_loadu_epi16(mask, x.cast()) } })
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn store<const FULL: bool>(x: *mut u16, mask: __mmask16, lanes: __m512) {
        let halves = halves(lanes);
        // SAFETY: the caller's promise.
        unsafe { if FULL { _mm256_storeu_si256(x.cast(), halves) } else { _mm256_mask_storeu_epi16(x.cast(), mask, halves) } }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn found(lanes: __m512) -> __m512 {
        _mm512_cvtph_ps(halves(lanes))
    }
}

/// See [`crate::portable::stored::f32_to_f16`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn halves(lanes: __m512) -> __m256i {
    // Of a NaN in the first place and a number the number.
    let bounded = _mm512_max_ps(_mm512_min_ps(lanes, _mm512_set1_ps(LARGEST_HALF)), _mm512_set1_ps(-LARGEST_HALF));
    _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(bounded)
}

/// [`portable::Half`], for CPUs that have F16C: only in functions that are compiled for it.
pub(super) enum F16c {}

impl portable::Stored for F16c {
    type Cell = u16;

    #[inline(always)]
    fn read(cells: &[u16; 16]) -> [f32; 16] {
        // SAFETY: a table with this in it is handed out only for CPUs with F16C.
        unsafe { read(cells) }
    }

    #[inline(always)]
    fn rounded(x: [f32; 16]) -> [u16; 16] {
        // SAFETY: as above.
        unsafe { rounded(&x) }
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn read(cells: &[u16; 16]) -> [f32; 16] {
    let mut x = [0.0; 16];
    for (x, cells) in x.as_chunks_mut::<8>().0.iter_mut().zip(cells.as_chunks::<8>().0) {
        // SAFETY: eight readable halves, eight writable floats; neither asks for alignment.
        unsafe { _mm256_storeu_ps(x.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(cells.as_ptr().cast()))) };
    }
    x
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn rounded(x: &[f32; 16]) -> [u16; 16] {
    let (largest, lowest) = (_mm256_set1_ps(LARGEST_HALF), _mm256_set1_ps(-LARGEST_HALF));
    let mut cells = [0; 16];
    for (cells, x) in cells.as_chunks_mut::<8>().0.iter_mut().zip(x.as_chunks::<8>().0) {
        // SAFETY: eight readable floats; the load asks for no alignment.
        let x = unsafe { _mm256_loadu_ps(x.as_ptr()) };
        // Of a NaN in the first place and a number the number.
        let bounded = _mm256_max_ps(_mm256_min_ps(x, largest), lowest);
        let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(bounded);
        // SAFETY: eight writable halves; the store asks for no alignment.
        unsafe { _mm_storeu_si128(cells.as_mut_ptr().cast(), halves) };
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use portable::{Half, Stored};

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn by_sixteen(x: &[f32; 16]) -> ([u16; 16], [f32; 16]) {
        let (mut cells, mut found) = ([0u16; 16], [0.0f32; 16]);
        // SAFETY: sixteen readable floats, sixteen writable cells and floats; the features are there.
        unsafe {
            let lanes = f32::load::<true>(x.as_ptr(), 0);
            u16::store::<true>(cells.as_mut_ptr(), 0, lanes);
            f32::store::<true>(found.as_mut_ptr(), 0, u16::found(lanes));
        }
        (cells, found)
    }

    #[test]
    fn halves_are_the_portable_ones_to_the_bit() {
        let has_f16c = std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("f16c");
        let has_512 = std::is_x86_feature_detected!("avx512bw") && std::is_x86_feature_detected!("avx512dq");
        // Every 1,021st float, what is no number among them.
        for first in (0..=u32::MAX).step_by(1_021 * 16) {
            let x: [f32; 16] = core::array::from_fn(|i| f32::from_bits(first.wrapping_add(1_021 * i as u32)));
            let cells = Half::rounded(x);
            if has_f16c {
                assert_eq!(F16c::rounded(x), cells, "{x:?}");
                assert_eq!(F16c::read(&cells).map(f32::to_bits), Half::read(&cells).map(f32::to_bits));
            }
            if has_512 {
                // SAFETY: the features were asked for.
                let (got, found) = unsafe { by_sixteen(&x) };
                assert_eq!((got, found.map(f32::to_bits)), (cells, Half::read(&cells).map(f32::to_bits)), "{x:?}");
            }
        }
    }
}
