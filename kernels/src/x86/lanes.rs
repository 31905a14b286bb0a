//! Sixteen floats in a register: between slices and registers, and the sum of one.

use core::arch::x86_64::*;

/// Floats in a register.
pub(super) const LANES: usize = 16;

/// Sixteen floats.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load(x: &[f32; LANES]) -> __m512 {
    // SAFETY: 16 readable floats; the load asks for no alignment.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

/// The reverse of [`load`].
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store(x: &mut [f32; LANES], lanes: __m512) {
    // SAFETY: 16 writable floats; the store asks for no alignment.
    unsafe { _mm512_storeu_ps(x.as_mut_ptr(), lanes) }
}

/// The lanes that the first `len` floats of a vector take.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn mask(len: usize) -> __mmask16 {
    ((1u32 << len.min(LANES)) - 1) as u16
}

/// The first floats of `x`, zero where there are fewer than sixteen.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_part(x: &[f32]) -> __m512 {
    // SAFETY: the mask lets no more lanes through than `x` is long.
    unsafe { _mm512_maskz_loadu_ps(mask(x.len()), x.as_ptr()) }
}

/// The reverse of [`load_part`].
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store_part(x: &mut [f32], lanes: __m512) {
    // SAFETY: the mask lets no more lanes through than `x` is long.
    unsafe { _mm512_mask_storeu_ps(x.as_mut_ptr(), mask(x.len()), lanes) }
}

/// Registers that [`map`] and [`map_with`] take together.
pub(super) const TOGETHER: usize = 4;

/// Several registers of floats.
const FLOATS: usize = TOGETHER * LANES;

/// `x[i] <- f(x[i])`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn map(x: &mut [f32], f: impl Fn([__m512; TOGETHER]) -> [__m512; TOGETHER]) {
    let (chunks, rest) = x.as_chunks_mut();
    for x in chunks {
        let y = f(load_several(x));
        store_several(x, y);
    }
    if !rest.is_empty() {
        let y = f(load_rest(rest));
        store_rest(rest, y);
    }
}

/// `x[i] <- f(x[i], y[i])`, over the shorter of the two.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn map_with(x: &mut [f32], y: &[f32], f: impl Fn([__m512; TOGETHER], [__m512; TOGETHER]) -> [__m512; TOGETHER]) {
    let len = x.len().min(y.len());
    let ((x_chunks, x_rest), (y_chunks, y_rest)) = (x[..len].as_chunks_mut(), y[..len].as_chunks());
    for (x, y) in x_chunks.iter_mut().zip(y_chunks) {
        let z = f(load_several(x), load_several(y));
        store_several(x, z);
    }
    if !x_rest.is_empty() {
        let z = f(load_rest(x_rest), load_rest(y_rest));
        store_rest(x_rest, z);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_several(x: &[f32; FLOATS]) -> [__m512; TOGETHER] {
    let mut lanes = [_mm512_setzero_ps(); TOGETHER];
    for (lanes, x) in lanes.iter_mut().zip(x.as_chunks().0) {
        *lanes = load(x);
    }
    lanes
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_several(x: &mut [f32; FLOATS], lanes: [__m512; TOGETHER]) {
    for (lanes, x) in lanes.into_iter().zip(x.as_chunks_mut().0) {
        store(x, lanes);
    }
}

/// As many floats as there are, zero behind them.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_rest(x: &[f32]) -> [__m512; TOGETHER] {
    let mut lanes = [_mm512_setzero_ps(); TOGETHER];
    for i in 0..TOGETHER {
        // Where nothing is left nothing is loaded: processors take long over a load without lanes from nowhere.
        if let Some(x @ [_, ..]) = x.get(i * LANES..) {
            lanes[i] = load_part(x);
        }
    }
    lanes
}

/// The reverse of [`load_rest`].
#[inline]
#[target_feature(enable = "avx512f")]
fn store_rest(x: &mut [f32], lanes: [__m512; TOGETHER]) {
    for i in 0..TOGETHER {
        if let Some(x @ [_, ..]) = x.get_mut(i * LANES..) {
            store_part(x, lanes[i]);
        }
    }
}

/// [`crate::portable::reduce::sum_of`]. A lane that `x` ends before adds a zero, which changes no sum that began at zero.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn sum_of(x: &[f32], term: impl Fn(__m512) -> __m512) -> f32 {
    let (chunks, rest) = x.as_chunks();
    let mut sum = _mm512_setzero_ps();
    for x in chunks {
        sum = _mm512_add_ps(sum, term(load(x)));
    }
    if !rest.is_empty() {
        sum = _mm512_mask_add_ps(sum, mask(rest.len()), sum, term(load_part(rest)));
    }
    tree(sum)
}

/// [`crate::portable::reduce::tree`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn tree(sixteen: __m512) -> f32 {
    let eight = _mm256_add_ps(_mm512_castps512_ps256(sixteen), _mm512_extractf32x8_ps::<1>(sixteen));
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
}

/// The first two levels of [`tree`] for four vectors: lanes `4 j` to `4 j + 3` hold what is left of vector `j`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn quarters([a, b, c, d]: [__m512; 4]) -> __m512 {
    let add_8 = |a, b| _mm512_add_ps(_mm512_shuffle_f32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b));
    let add_4 = |a, b| _mm512_add_ps(_mm512_shuffle_f32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b));
    add_4(add_8(a, b), add_8(c, d))
}

/// The other two levels for four times four vectors: lane `4 j + i` is the sum of vector `j` of `quarters[i]`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn join_quarters([a, b, c, d]: [__m512; 4]) -> __m512 {
    let add_2 = |a, b| _mm512_add_ps(_mm512_shuffle_ps::<0b01_00_01_00>(a, b), _mm512_shuffle_ps::<0b11_10_11_10>(a, b));
    let add_1 = |a, b| _mm512_add_ps(_mm512_shuffle_ps::<0b10_00_10_00>(a, b), _mm512_shuffle_ps::<0b11_01_11_01>(a, b));
    add_1(add_2(a, b), add_2(c, d))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::portable::reduce;

    #[test]
    fn sixteen_trees_are_the_portable_ones() {
        if !std::is_x86_feature_detected!("avx512dq") {
            return;
        }
        let x: [[f32; LANES]; LANES] =
            core::array::from_fn(|i| core::array::from_fn(|lane| ((i * 977 + lane * 131) as f32).sin() * 10f32.powi(lane as i32 % 7)));
        // SAFETY: the features were asked for.
        let (one, all) = unsafe { trees_of(&x) };
        assert_eq!(one.map(f32::to_bits), x.map(reduce::tree).map(f32::to_bits));
        assert_eq!(all.map(f32::to_bits), x.map(reduce::tree).map(f32::to_bits));
    }

    #[target_feature(enable = "avx512f,avx512dq")]
    fn trees_of(x: &[[f32; LANES]; LANES]) -> ([f32; LANES], [f32; LANES]) {
        let mut all = [0.0; LANES];
        let mut lanes = [_mm512_setzero_ps(); LANES];
        for (lanes, x) in lanes.iter_mut().zip(x) {
            *lanes = load(x);
        }
        store(&mut all, join_quarters([0, 1, 2, 3].map(|i| quarters([0, 4, 8, 12].map(|j| lanes[i + j])))));
        let mut one = [0.0; LANES];
        for (one, x) in one.iter_mut().zip(lanes) {
            *one = tree(x);
        }
        (one, all)
    }
}
