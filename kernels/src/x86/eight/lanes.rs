//! Eight floats in a register: between slices and registers.

use core::arch::x86_64::*;

/// Floats in a register.
pub(super) const LANES: usize = 8;
/// Registers that are taken together: a chain of steps for one of them fills the gaps of another's.
pub(super) const TOGETHER: usize = 4;
/// Floats of those.
pub(super) const FLOATS: usize = TOGETHER * LANES;

/// Several registers.
pub(super) type Several = [__m256; TOGETHER];

/// Eight floats.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load(x: &[f32; LANES]) -> __m256 {
    // SAFETY: 8 readable floats; the load asks for no alignment.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

/// The reverse of [`load`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store(x: &mut [f32; LANES], lanes: __m256) {
    // SAFETY: 8 writable floats; the store asks for no alignment.
    unsafe { _mm256_storeu_ps(x.as_mut_ptr(), lanes) }
}

/// `x[i] <- f(x[i])`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn map(x: &mut [f32], f: impl Fn(Several) -> Several) {
    for x in x.chunks_mut(FLOATS) {
        let y = f(load_part(x));
        store_part(x, y);
    }
}

/// `x[i] <- f(x[i], y[i])`, over the shorter of the two.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn map_with(x: &mut [f32], y: &[f32], f: impl Fn(Several, Several) -> Several) {
    let len = x.len().min(y.len());
    for (x, y) in x[..len].chunks_mut(FLOATS).zip(y.chunks(FLOATS)) {
        let z = f(load_part(x), load_part(y));
        store_part(x, z);
    }
}

/// The first [`FLOATS`] of `x`, zeros where there are fewer.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_part(x: &[f32]) -> Several {
    let mut padded = [0.0; FLOATS];
    let x = x.first_chunk().unwrap_or_else(|| {
        padded[..x.len()].copy_from_slice(x);
        &padded
    });
    let mut lanes = [_mm256_setzero_ps(); TOGETHER];
    for (lanes, x) in lanes.iter_mut().zip(x.as_chunks().0) {
        *lanes = load(x);
    }
    lanes
}

/// The reverse of [`load_part`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store_part(x: &mut [f32], lanes: Several) {
    if let Some(x) = x.first_chunk_mut::<FLOATS>() {
        return store_several(x, lanes);
    }
    let mut padded = [0.0; FLOATS];
    store_several(&mut padded, lanes);
    x.copy_from_slice(&padded[..x.len()]);
}

#[inline]
#[target_feature(enable = "avx2")]
fn store_several(x: &mut [f32; FLOATS], lanes: Several) {
    for (x, lanes) in x.as_chunks_mut().0.iter_mut().zip(lanes) {
        store(x, lanes);
    }
}

/// A cache line of floats, and as many as a recurrent state is converted at once.
pub(super) const SIXTEEN: usize = 16;
/// Registers of those.
pub(super) const PAIR: usize = SIXTEEN / LANES;

/// Sixteen floats.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sixteen(x: &[f32; SIXTEEN]) -> [__m256; PAIR] {
    let mut lanes = [_mm256_setzero_ps(); PAIR];
    for (lanes, x) in lanes.iter_mut().zip(x.as_chunks().0) {
        *lanes = load(x);
    }
    lanes
}

/// The reverse of [`sixteen`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn to_array(lanes: [__m256; PAIR]) -> [f32; SIXTEEN] {
    let mut x = [0.0; SIXTEEN];
    for (x, lanes) in x.as_chunks_mut().0.iter_mut().zip(lanes) {
        store(x, lanes);
    }
    x
}

/// `C` times sixteen numbers.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn several<const C: usize>(x: &[[f32; SIXTEEN]; C]) -> [[__m256; PAIR]; C] {
    let mut lanes = [[_mm256_setzero_ps(); PAIR]; C];
    for (lanes, x) in lanes.iter_mut().zip(x) {
        *lanes = sixteen(x);
    }
    lanes
}
