//! The selective scan, sixteen channels at a time in registers: one exponential per channel and state is most of its work.

use crate::portable;
use crate::portable::act;
use crate::rows::RowsMut;
use crate::table::Scan;
use core::arch::x86_64::*;

/// Channels in a register.
const LANES: usize = 16;

/// See [`portable::scan`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn scan(scan: &Scan<'_>, mut h: RowsMut<'_>, mut y: RowsMut<'_>) {
    let (tokens, channels) = (scan.x.rows(), scan.x.width());
    let heads = scan.heads.max(1);
    let d_state = scan.b.width() / heads;
    let whole = |rows: usize, width: usize, rows_wanted: usize| rows >= rows_wanted && width >= channels;
    let fits = scan.dt_bias.len() >= channels
        && scan.d.len() >= channels
        && whole(scan.dt.rows(), scan.dt.width(), tokens)
        && whole(y.rows(), y.width(), tokens)
        && scan.z.is_none_or(|z| whole(z.rows(), z.width(), tokens))
        && whole(scan.a.rows(), scan.a.width(), d_state)
        && whole(h.rows(), h.width(), d_state);
    if !fits {
        return portable::scan(scan, h, y);
    }
    let per_head = channels / heads;
    for t in 0..tokens {
        let (x, dt, z) = (scan.x.row(t), scan.dt.row(t), scan.z.map(|z| z.row(t)));
        for head in 0..heads {
            let b = scan.b.row(t).get(head * d_state..).unwrap_or_default();
            let c = scan.c.row(t).get(head * d_state..).unwrap_or_default();
            let end = (head + 1) * per_head;
            for at in (head * per_head..end).step_by(LANES) {
                let mask = ((1u32 << (end - at).min(LANES)) - 1) as u16;
                // SAFETY: the mask lets channels below `end` through, and every vector was seen to hold `channels` of them.
                let load = |x: &[f32]| unsafe { _mm512_maskz_loadu_ps(mask, x.as_ptr().add(at)) };
                let x = load(x);
                let dt = _mm512_add_ps(load(dt), load(scan.dt_bias));
                let dt = _mm512_mul_ps(map(dt, act::softplus), _mm512_set1_ps(scan.gap));
                let dx = _mm512_mul_ps(dt, x);
                let mut sum = _mm512_setzero_ps();
                for (n, (&b, &c)) in b.iter().zip(c).take(d_state).enumerate() {
                    let a = load(scan.a.row(n));
                    let row = h.row_mut(n);
                    let kept = _mm512_mul_ps(exp(_mm512_mul_ps(dt, a)), load(row));
                    let state = _mm512_add_ps(kept, _mm512_mul_ps(dx, _mm512_set1_ps(b)));
                    // SAFETY: as for the loads.
                    unsafe { _mm512_mask_storeu_ps(row.as_mut_ptr().add(at), mask, state) };
                    sum = _mm512_add_ps(sum, _mm512_mul_ps(_mm512_set1_ps(c), state));
                }
                sum = _mm512_add_ps(sum, _mm512_mul_ps(load(scan.d), x));
                if let Some(z) = z {
                    sum = _mm512_mul_ps(sum, map(load(z), act::silu));
                }
                // SAFETY: as for the loads.
                unsafe { _mm512_mask_storeu_ps(y.row_mut(t).as_mut_ptr().add(at), mask, sum) };
            }
        }
    }
}

/// A portable function on every lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn map(x: __m512, f: impl Fn(f32) -> f32) -> __m512 {
    let mut lanes = [0.0f32; LANES];
    // SAFETY: 16 writable floats.
    unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), x) };
    for x in &mut lanes {
        *x = f(*x);
    }
    // SAFETY: 16 readable floats.
    unsafe { _mm512_loadu_ps(lanes.as_ptr()) }
}

/// [`act::exp`], step for step; one instruction scales by the power of two, which rounds as the portable two factors do: the first
/// of them is always exact.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp(x: __m512) -> __m512 {
    let set = |x: f32| _mm512_set1_ps(x);
    let round = set(12_582_912.0);
    // A NaN is in the second place, and stays.
    let x = _mm512_max_ps(set(-104.0), x);
    let x = _mm512_min_ps(set(89.0), x);
    let n = _mm512_sub_ps(_mm512_add_ps(_mm512_mul_ps(x, set(core::f32::consts::LOG2_E)), round), round);
    let r = _mm512_sub_ps(x, _mm512_mul_ps(n, set(0.693_359_4)));
    let r = _mm512_sub_ps(r, _mm512_mul_ps(n, set(-2.121_944_4e-4)));
    let mut p = set(1.987_569_1e-4);
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = _mm512_add_ps(_mm512_mul_ps(p, r), set(coefficient));
    }
    let e_r = _mm512_add_ps(_mm512_add_ps(_mm512_mul_ps(p, _mm512_mul_ps(r, r)), r), set(1.0));
    _mm512_scalef_ps(e_r, n)
}

#[cfg(test)]
mod tests {
    use super::{LANES, act, exp};
    use core::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    fn exp_of(x: [f32; LANES]) -> [f32; LANES] {
        let mut y = [0.0; LANES];
        // SAFETY: both arrays are 16 floats.
        unsafe { _mm512_storeu_ps(y.as_mut_ptr(), exp(_mm512_loadu_ps(x.as_ptr()))) };
        y
    }

    #[test]
    fn exponentials_are_the_portable_ones_to_the_bit() {
        if !std::is_x86_feature_detected!("avx512f") {
            return;
        }
        // Every 4,099th float, infinities and both signs among them.
        for first in (0..=u32::MAX).step_by(4_099 * LANES) {
            let x: [f32; LANES] = core::array::from_fn(|i| f32::from_bits(first.wrapping_add(4_099 * i as u32)));
            // SAFETY: the feature was asked for.
            let y = unsafe { exp_of(x) };
            for (x, y) in x.into_iter().zip(y) {
                let want = act::exp(x);
                assert!(y.to_bits() == want.to_bits() || (y.is_nan() && want.is_nan()), "exp({x:e}) = {y:e}, portable {want:e}");
            }
        }
    }
}
