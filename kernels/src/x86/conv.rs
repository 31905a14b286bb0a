//! The causal convolution: weights and window of sixteen channels stay in registers while the tokens pass.

use super::act::silu;
use super::lanes::{LANES, load_part, store_part};
use crate::portable;
use crate::rows::RowsMut;
use crate::table::Conv1d;
use core::arch::x86_64::*;

/// See [`portable::conv1d`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn conv1d(conv: &Conv1d<'_>, mut state: RowsMut<'_>, mut x: RowsMut<'_>) {
    match conv.taps {
        // With one row too few, or too narrow, it would not be clear where a window ends.
        4 if fits(conv, &state, &x) => channels::<3>(conv, &mut state, &mut x),
        3 if fits(conv, &state, &x) => channels::<2>(conv, &mut state, &mut x),
        2 if fits(conv, &state, &x) => channels::<1>(conv, &mut state, &mut x),
        _ => portable::conv1d(conv, state, x),
    }
}

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
    for at in (0..x.width()).step_by(LANES) {
        let mut weights = [_mm512_setzero_ps(); KEPT];
        let mut window = [_mm512_setzero_ps(); KEPT];
        for tap in 0..KEPT {
            weights[tap] = load_part(&conv.weight.row(tap)[at..]);
            window[tap] = load_part(&state.row(tap)[at..]);
        }
        let newest_weight = load_part(&conv.weight.row(KEPT)[at..]);
        let bias = conv.bias.map_or(_mm512_setzero_ps(), |bias| load_part(&bias[at..]));
        for t in 0..x.rows() {
            let x = &mut x.row_mut(t)[at..];
            let newest = load_part(x);
            let mut acc = bias;
            for tap in 0..KEPT {
                acc = _mm512_add_ps(acc, _mm512_mul_ps(weights[tap], window[tap]));
                window[tap] = if tap + 1 < KEPT { window[tap + 1] } else { newest };
            }
            acc = _mm512_add_ps(acc, _mm512_mul_ps(newest_weight, newest));
            store_part(x, if conv.silu { silu(acc) } else { acc });
        }
        for (tap, window) in window.into_iter().enumerate() {
            store_part(&mut state.row_mut(tap)[at..], window);
        }
    }
}
