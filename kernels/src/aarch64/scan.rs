//! The selective scan, sixteen channels at a time in registers: one exponential per channel and state is most of its work.

use super::lanes::{LANES, Lanes, add, cells, from_array, load, map, multiply, set_cells, splat, store, to_array};
#[cfg(feature = "narrow-states")]
use super::stored::Fcvt;
use crate::portable::act;
use crate::portable::stored::Stored;
use crate::rows::RowsMut;
use crate::state::StateMut;
use crate::table::Scan;
use core::arch::aarch64::*;

/// See [`crate::portable::scan`]. All tokens of sixteen channels come before the next sixteen: their state stays in the first-level cache.
pub(super) fn scan(scan: &Scan<'_>, h: StateMut<'_>, y: RowsMut<'_>) {
    with_rows!(h, Fcvt, |h, Stored| walk::<Stored>(scan, h, y));
}

fn walk<S: Stored>(scan: &Scan<'_>, mut h: RowsMut<'_, S::Cell>, mut y: RowsMut<'_>) {
    let heads = scan.heads.max(1);
    let per_head = scan.x.width() / heads;
    for head in 0..heads {
        let end = (head + 1) * per_head;
        for at in (head * per_head..end).step_by(LANES) {
            match at + LANES <= end {
                true => some_channels::<true, S>(scan, &mut h, &mut y, head, at, end),
                false => some_channels::<false, S>(scan, &mut h, &mut y, head, at, end),
            }
        }
    }
}

/// All tokens of the channels from `at`: of sixteen (`WHOLE`), or of those before `end`.
#[inline(always)]
fn some_channels<const WHOLE: bool, S: Stored>(
    scan: &Scan<'_>,
    h: &mut RowsMut<'_, S::Cell>,
    y: &mut RowsMut<'_>,
    head: usize,
    at: usize,
    end: usize,
) {
    let d_state = scan.b.width() / scan.heads.max(1);
    let load = |x: &[f32]| load::<WHOLE>(x, at, end);
    let (bias, d) = (load(scan.dt_bias), load(scan.d));
    for t in 0..scan.x.rows() {
        let b = scan.b.row(t).get(head * d_state..).unwrap_or_default();
        let c = scan.c.row(t).get(head * d_state..).unwrap_or_default();
        let x = load(scan.x.row(t));
        let dt = multiply(map(add(load(scan.dt.row(t)), bias), act::softplus), splat(scan.gap));
        let dx = multiply(dt, x);
        let mut sum = splat(0.0);
        for (n, (&b, &c)) in b.iter().zip(c).take(d_state).enumerate() {
            let row = h.row_mut(n);
            let before = from_array(&S::read(&cells::<WHOLE, _>(row, at, end)));
            let kept = multiply(exp(multiply(dt, load(scan.a.row(n)))), before);
            let state = add(kept, multiply(dx, splat(b)));
            set_cells::<WHOLE, _>(row, at, end, S::rounded(to_array(state)));
            sum = add(sum, multiply(splat(c), state));
        }
        sum = add(sum, multiply(d, x));
        if let Some(z) = scan.z {
            sum = multiply(sum, map(load(z.row(t)), act::silu));
        }
        store::<WHOLE>(y.row_mut(t), at, end, sum);
    }
}

/// [`act::exp`], step for step.
#[inline(always)]
fn exp(x: Lanes) -> Lanes {
    const COEFFICIENTS: [f32; 5] = [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    const ONE: i32 = 1.0f32.to_bits() as i32;
    let mut e = x;
    // SAFETY: NEON is part of every aarch64 core.
    unsafe {
        let set = |x: f32| vdupq_n_f32(x);
        let round = set(12_582_912.0);
        for e in &mut e {
            // A NaN stays.
            let x = vminq_f32(vmaxq_f32(*e, set(-104.0)), set(89.0));
            let shifted = vaddq_f32(vmulq_f32(x, set(core::f32::consts::LOG2_E)), round);
            let n = vsubq_f32(shifted, round);
            let r = vsubq_f32(vsubq_f32(x, vmulq_f32(n, set(0.693_359_4))), vmulq_f32(n, set(-2.121_944_4e-4)));
            let mut p = set(1.987_569_1e-4);
            for coefficient in COEFFICIENTS {
                p = vaddq_f32(vmulq_f32(p, r), set(coefficient));
            }
            let e_r = vaddq_f32(vaddq_f32(vmulq_f32(p, vmulq_f32(r, r)), r), set(1.0));
            // The low bits of `shifted` are the integer n; n / 2, rounded down, goes to the exponent of one factor, the rest to the other's.
            let n = vshlq_n_s32::<22>(vreinterpretq_s32_f32(shifted));
            let half = vandq_s32(n, vdupq_n_s32(-1 << 23));
            let rest = vsubq_s32(vaddq_s32(n, n), half);
            let (half, rest) = (vaddq_s32(half, vdupq_n_s32(ONE)), vaddq_s32(rest, vdupq_n_s32(ONE)));
            *e = vmulq_f32(vmulq_f32(e_r, vreinterpretq_f32_s32(half)), vreinterpretq_f32_s32(rest));
        }
    }
    e
}

#[cfg(test)]
mod tests {
    use super::super::lanes::{from_array, to_array};
    use super::{LANES, act, exp};

    #[test]
    fn exponentials_are_the_portable_ones_to_the_bit() {
        // Every 4,099th float, infinities and both signs among them.
        for first in (0..=u32::MAX).step_by(4_099 * LANES) {
            let x: [f32; LANES] = core::array::from_fn(|i| f32::from_bits(first.wrapping_add(4_099 * i as u32)));
            let y = to_array(exp(from_array(&x)));
            for (x, y) in x.into_iter().zip(y) {
                let want = act::exp(x);
                assert!(y.to_bits() == want.to_bits() || (y.is_nan() && want.is_nan()), "exp({x:e}) = {y:e}, portable {want:e}");
            }
        }
    }
}
