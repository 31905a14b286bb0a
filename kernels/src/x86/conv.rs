//! The causal convolution: weights and window of sixteen channels stay in registers while the tokens pass.

use super::act::silu;
use super::lanes::{LANES, map, mask};
use crate::portable;
use crate::rows::RowsMut;
use crate::table::Conv1d;
use core::arch::x86_64::*;

/// See [`portable::conv1d`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn conv1d(conv: &Conv1d<'_>, mut state: RowsMut<'_>, mut x: RowsMut<'_>) {
    match conv.taps {
        4 if fits(conv, &state, &x) => channels::<3>(conv, &mut state, &mut x),
        3 if fits(conv, &state, &x) => channels::<2>(conv, &mut state, &mut x),
        2 if fits(conv, &state, &x) => channels::<1>(conv, &mut state, &mut x),
        _ => portable::conv1d(conv, state, x),
    }
}

/// Whether every row is as wide as those of x, and none is missing.
fn fits(conv: &Conv1d<'_>, state: &RowsMut<'_>, x: &RowsMut<'_>) -> bool {
    let channels = x.width();
    conv.weight.rows() >= conv.taps
        && conv.weight.width() == channels
        && state.rows() + 1 >= conv.taps
        && state.width() == channels
        && conv.bias.is_none_or(|bias| bias.len() == channels)
}

/// All channels, with `KEPT` inputs kept.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn channels<const KEPT: usize>(conv: &Conv1d<'_>, state: &mut RowsMut<'_>, x: &mut RowsMut<'_>) {
    let channels = x.width();
    for at in (0..channels).step_by(LANES) {
        let mask = mask(channels - at);
        // SAFETY: every row was seen to be as wide as x, and the mask lets no channel beyond that through.
        let load = |x: &[f32]| unsafe { _mm512_maskz_loadu_ps(mask, x.as_ptr().add(at)) };
        let mut weights = [_mm512_setzero_ps(); KEPT];
        let mut window = [_mm512_setzero_ps(); KEPT];
        for tap in 0..KEPT {
            weights[tap] = load(conv.weight.row(tap));
            window[tap] = load(state.row(tap));
        }
        let newest_weight = load(conv.weight.row(KEPT));
        let bias = conv.bias.map_or(_mm512_setzero_ps(), load);
        for t in 0..x.rows() {
            let newest = load(x.row(t));
            let mut acc = bias;
            for tap in 0..KEPT {
                acc = _mm512_add_ps(acc, _mm512_mul_ps(weights[tap], window[tap]));
                window[tap] = if tap + 1 < KEPT { window[tap + 1] } else { newest };
            }
            acc = _mm512_add_ps(acc, _mm512_mul_ps(newest_weight, newest));
            // SAFETY: as above.
            unsafe { _mm512_mask_storeu_ps(x.row_mut(t).as_mut_ptr().add(at), mask, acc) };
        }
        for (tap, window) in window.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { _mm512_mask_storeu_ps(state.row_mut(tap).as_mut_ptr().add(at), mask, window) };
        }
    }
    if conv.silu {
        for t in 0..x.rows() {
            map(x.row_mut(t), |x| silu(x));
        }
    }
}
