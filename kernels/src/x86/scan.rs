//! The selective scan, sixteen channels at a time in registers: one exponential per channel and state is most of its work.

use super::act::{exp, silu, softplus};
use super::lanes::LANES;
use crate::portable;
use crate::table::Scan;
use core::arch::x86_64::*;

/// See [`portable::scan_step`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn scan_step(scan: &Scan<'_>, h: &mut [f32], y: &mut [f32]) {
    let d_inner = scan.x.len();
    let heads = scan.heads.max(1);
    let d_state = scan.b.len() / heads;
    let states = d_state * d_inner;
    let per_channel = [scan.dt.len(), scan.dt_bias.len(), scan.d.len(), scan.z.map_or(d_inner, <[f32]>::len), y.len()];
    if per_channel.iter().any(|&len| len < d_inner) || scan.a.len() < states || h.len() < states || scan.c.len() < heads * d_state {
        return portable::scan_step(scan, h, y);
    }
    let per_head = d_inner / heads;
    for head in 0..heads {
        let (b, c) = (&scan.b[head * d_state..][..d_state], &scan.c[head * d_state..][..d_state]);
        let end = (head + 1) * per_head;
        for at in (head * per_head..end).step_by(LANES) {
            let mask = ((1u32 << (end - at).min(LANES)) - 1) as u16;
            // SAFETY: the mask lets channels below `end` through, and every vector was seen to hold `d_inner` of them.
            let load = |x: &[f32]| unsafe { _mm512_maskz_loadu_ps(mask, x.as_ptr().add(at)) };
            let x = load(scan.x);
            let dt = _mm512_add_ps(load(scan.dt), load(scan.dt_bias));
            let dt = _mm512_mul_ps(softplus(dt), _mm512_set1_ps(scan.gap));
            let dx = _mm512_mul_ps(dt, x);
            let mut sum = _mm512_setzero_ps();
            for (n, (&b, &c)) in b.iter().zip(c).enumerate() {
                let row = n * d_inner + at;
                // SAFETY: rows end before `states`, which `a` and `h` were seen to hold; the mask ends at the row's own `end`.
                unsafe {
                    let a = _mm512_maskz_loadu_ps(mask, scan.a.as_ptr().add(row));
                    let state = _mm512_maskz_loadu_ps(mask, h.as_ptr().add(row));
                    let kept = _mm512_mul_ps(exp(_mm512_mul_ps(dt, a)), state);
                    let state = _mm512_add_ps(kept, _mm512_mul_ps(dx, _mm512_set1_ps(b)));
                    _mm512_mask_storeu_ps(h.as_mut_ptr().add(row), mask, state);
                    sum = _mm512_add_ps(sum, _mm512_mul_ps(_mm512_set1_ps(c), state));
                }
            }
            sum = _mm512_add_ps(sum, _mm512_mul_ps(load(scan.d), x));
            if let Some(z) = scan.z {
                sum = _mm512_mul_ps(sum, silu(load(z)));
            }
            // SAFETY: as for the loads.
            unsafe { _mm512_mask_storeu_ps(y.as_mut_ptr().add(at), mask, sum) };
        }
    }
}
