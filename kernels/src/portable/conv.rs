//! Steps of a causal depthwise convolution.

use super::SCALAR;
use super::act::silu;
use super::scan::{WIDTH, load, store};
use crate::rows::{Rows, RowsMut};
use crate::table::Conv1d;

/// `x[c] <- act(bias[c] + sum_j weight[j][c] * window[j][c])`, where the window is the state and then `x` itself.
///
/// The state holds the last `taps - 1` inputs, oldest first, before the activation; it is shifted by one a step.
#[inline(always)]
pub(crate) fn conv1d(conv: &Conv1d<'_>, mut state: RowsMut<'_>, mut x: RowsMut<'_>) {
    for t in 0..x.rows() {
        if SCALAR && conv.taps == 4 {
            four_taps(conv, state.reborrow(), x.row_mut(t));
        } else {
            any_taps(conv, state.reborrow(), x.row_mut(t));
        }
    }
}

#[inline(always)]
fn any_taps(conv: &Conv1d<'_>, mut state: RowsMut<'_>, x: &mut [f32]) {
    let channels = x.len();
    let kept = conv.taps.saturating_sub(1);
    let mut at = 0;
    while at < channels {
        let mut acc = conv.bias.map_or([0.0; WIDTH], |bias| load(bias, at, channels));
        let newest = load(x, at, channels);
        for tap in 0..kept {
            let w = load(conv.weight.row(tap), at, channels);
            let s = load(state.row(tap), at, channels);
            for i in 0..WIDTH {
                acc[i] += w[i] * s[i];
            }
            let next = if tap + 1 < kept { load(state.row(tap + 1), at, channels) } else { newest };
            store(state.row_mut(tap), at, channels, next);
        }
        let w = load(conv.weight.row(kept), at, channels);
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
fn four_taps(conv: &Conv1d<'_>, state: RowsMut<'_>, x: &mut [f32]) {
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
fn four_taps_from(start: impl Iterator<Item = f32>, weight: Rows<'_>, mut state: RowsMut<'_>, x: &mut [f32]) {
    let Some([s0, s1, s2]) = state.first_rows() else { return };
    let window = s0.iter_mut().zip(s1).zip(s2);
    let weights = weight.row(0).iter().zip(weight.row(1)).zip(weight.row(2)).zip(weight.row(3));
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
            let conv = Conv1d { weight: Rows::new(&weight, 4, CHANNELS, CHANNELS).unwrap(), bias, taps: 4, silu };
            let mut states = [[0.0; 3 * CHANNELS]; 2];
            for step in 0..6 {
                let mut x: [[f32; CHANNELS]; 2] = [core::array::from_fn(|i| number(i + 2000 + 100 * step)); 2];
                let [any, four] = states.each_mut().map(|state| RowsMut::new(state, 3, CHANNELS, CHANNELS).unwrap());
                any_taps(&conv, any, &mut x[0]);
                four_taps(&conv, four, &mut x[1]);
                assert_eq!(x[0].map(f32::to_bits), x[1].map(f32::to_bits));
                assert_eq!(states[0], states[1]);
            }
        }
    }
}
