//! One step of a causal depthwise convolution.

use super::act::silu;
use super::scan::{WIDTH, load, store};
use crate::table::Conv1d;

/// `x[c] <- act(bias[c] + sum_j weight[j][c] * window[j][c])`, where the window is the state and then `x` itself.
///
/// The state holds the last `taps - 1` inputs, oldest first, before the activation; it is shifted by one.
#[inline(always)]
pub(crate) fn conv1d_step(conv: &Conv1d<'_>, state: &mut [f32], x: &mut [f32]) {
    let channels = x.len();
    let kept = conv.taps.saturating_sub(1);
    let mut at = 0;
    while at < channels {
        let mut acc = conv.bias.map_or([0.0; WIDTH], |bias| load(bias, at, channels));
        let newest = load(x, at, channels);
        for tap in 0..kept {
            let row = tap * channels;
            let w = load(conv.weight, row + at, row + channels);
            let s = load(state, row + at, row + channels);
            for i in 0..WIDTH {
                acc[i] += w[i] * s[i];
            }
            let next = if tap + 1 < kept { load(state, row + channels + at, row + 2 * channels) } else { newest };
            store(state, row + at, row + channels, next);
        }
        let row = kept * channels;
        let w = load(conv.weight, row + at, row + channels);
        for i in 0..WIDTH {
            acc[i] += w[i] * newest[i];
        }
        if conv.silu {
            acc = acc.map(silu);
        }
        store(x, at, channels, acc);
        at += WIDTH;
    }
}
