//! One step of a causal depthwise convolution.

use super::SCALAR;
use super::act::silu;
use super::scan::{WIDTH, load, store};
use crate::table::Conv1d;

/// `x[c] <- act(bias[c] + sum_j weight[j][c] * window[j][c])`, where the window is the state and then `x` itself.
///
/// The state holds the last `taps - 1` inputs, oldest first, before the activation; it is shifted by one.
#[inline(always)]
pub(crate) fn conv1d_step(conv: &Conv1d<'_>, state: &mut [f32], x: &mut [f32]) {
    if SCALAR && conv.taps == 4 {
        four_taps(conv, state, x);
    } else {
        any_taps(conv, state, x);
    }
}

#[inline(always)]
fn any_taps(conv: &Conv1d<'_>, state: &mut [f32], x: &mut [f32]) {
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

/// The usual width, channel by channel: for registers of one number.
#[inline(always)]
fn four_taps(conv: &Conv1d<'_>, state: &mut [f32], x: &mut [f32]) {
    match conv.bias {
        Some(bias) => four_taps_from(bias.iter().copied(), conv.weight, state, x),
        None => four_taps_from(core::iter::repeat(0.0), conv.weight, state, x),
    }
    if conv.silu {
        for x in x {
            *x = silu(*x);
        }
    }
}

#[inline(always)]
fn four_taps_from(start: impl Iterator<Item = f32>, weight: &[f32], state: &mut [f32], x: &mut [f32]) {
    let channels = x.len();
    let (Some((s0, rest)), Some((w0, weights))) = (state.split_at_mut_checked(channels), weight.split_at_checked(channels)) else { return };
    let (Some((s1, s2)), Some((w1, weights))) = (rest.split_at_mut_checked(channels), weights.split_at_checked(channels)) else { return };
    let Some((w2, w3)) = weights.split_at_checked(channels) else { return };
    let window = s0.iter_mut().zip(s1).zip(s2);
    let weights = w0.iter().zip(w1).zip(w2).zip(w3);
    for (((x, ((s0, s1), s2)), (((w0, w1), w2), w3)), start) in x.iter_mut().zip(window).zip(weights).zip(start) {
        let acc = start + w0 * *s0 + w1 * *s1 + w2 * *s2 + w3 * *x;
        (*s0, *s1, *s2) = (*s1, *s2, *x);
        *x = acc;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_taps_give_the_bits_of_any_number() {
        let number = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 4_194_304.0 - 2.0;
        const CHANNELS: usize = 37;
        let weight: [f32; 4 * CHANNELS] = core::array::from_fn(|i| number(i + 1));
        let bias: [f32; CHANNELS] = core::array::from_fn(|i| number(i + 1000));
        for (bias, silu) in [(None, false), (None, true), (Some(&bias[..]), false), (Some(&bias[..]), true)] {
            let conv = Conv1d { weight: &weight, bias, taps: 4, silu };
            let mut states = [[0.0; 3 * CHANNELS]; 2];
            for step in 0..6 {
                let mut x: [[f32; CHANNELS]; 2] = [core::array::from_fn(|i| number(i + 2000 + 100 * step)); 2];
                any_taps(&conv, &mut states[0], &mut x[0]);
                four_taps(&conv, &mut states[1], &mut x[1]);
                assert_eq!(x[0].map(f32::to_bits), x[1].map(f32::to_bits));
                assert_eq!(states[0], states[1]);
            }
        }
    }
}
