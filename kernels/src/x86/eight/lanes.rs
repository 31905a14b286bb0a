//! Eight floats in a register: between slices and registers.

use core::arch::x86_64::*;

/// Floats in a register.
pub(super) const LANES: usize = 8;
/// Registers that are taken together: a chain of steps for one of them fills the gaps of another's.
pub(super) const TOGETHER: usize = 4;
/// Floats of those.
const FLOATS: usize = TOGETHER * LANES;

/// Several registers.
type Several = [__m256; TOGETHER];

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

/// `out[i] <- f(out[i], x[i])`, over the shorter of the two.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn map_with(out: &mut [f32], x: &[f32], f: impl Fn(Several, Several) -> Several) {
    let len = out.len().min(x.len());
    let ((outs, out_rest), (xs, x_rest)) = (out[..len].as_chunks_mut(), x[..len].as_chunks());
    for (out, x) in outs.iter_mut().zip(xs) {
        let y = f(load_several(out), load_several(x));
        store_several(out, y);
    }
    if !out_rest.is_empty() {
        let y = f(load_several(&padded(out_rest)), load_several(&padded(x_rest)));
        let mut all = [0.0; FLOATS];
        store_several(&mut all, y);
        out_rest.copy_from_slice(&all[..out_rest.len()]);
    }
}

/// `x[i] <- f(x[i])`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn map(x: &mut [f32], f: impl Fn(Several) -> Several) {
    let (chunks, rest) = x.as_chunks_mut();
    for x in chunks {
        let y = f(load_several(x));
        store_several(x, y);
    }
    if !rest.is_empty() {
        let mut all = padded(rest);
        let y = f(load_several(&all));
        store_several(&mut all, y);
        rest.copy_from_slice(&all[..rest.len()]);
    }
}

/// Zeros behind `x`, which is shorter.
fn padded(x: &[f32]) -> [f32; FLOATS] {
    let mut all = [0.0; FLOATS];
    all[..x.len()].copy_from_slice(x);
    all
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_several(x: &[f32; FLOATS]) -> Several {
    let mut lanes = [_mm256_setzero_ps(); TOGETHER];
    for (lanes, x) in lanes.iter_mut().zip(x.as_chunks().0) {
        *lanes = load(x);
    }
    lanes
}

#[inline]
#[target_feature(enable = "avx2")]
fn store_several(x: &mut [f32; FLOATS], lanes: Several) {
    for (lanes, x) in lanes.into_iter().zip(x.as_chunks_mut().0) {
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
