//! The causal convolution: weights and window of sixteen channels stay in registers while the tokens pass.

use super::act::{each, silu};
use super::lanes::{PAIR, SIXTEEN, map, sixteen, to_array};
use crate::portable;
use crate::rows::RowsMut;
use crate::table::Conv1d;
use core::arch::x86_64::*;
use core::ops::Range;

/// See [`portable::conv1d`].
#[target_feature(enable = "avx2")]
pub(in crate::x86) fn conv1d(conv: &Conv1d<'_>, mut state: RowsMut<'_>, mut x: RowsMut<'_>) {
    let channels = x.width();
    let whole = match conv.taps {
        2..=4 => channels / SIXTEEN * SIXTEEN,
        _ => 0,
    };
    for at in (0..whole).step_by(SIXTEEN) {
        match conv.taps {
            4 => sixteen_channels::<3>(conv, at, &mut state, &mut x),
            3 => sixteen_channels::<2>(conv, at, &mut state, &mut x),
            _ => sixteen_channels::<1>(conv, at, &mut state, &mut x),
        }
    }
    if conv.silu {
        for t in 0..x.rows() {
            map(&mut x.row_mut(t)[..whole], |x| silu(x));
        }
    }
    if let Some(rest) = part(conv, whole..channels)
        && state.take_columns(whole).is_some()
        && x.take_columns(whole).is_some()
    {
        portable::conv1d(&rest, state, x);
    }
}

/// Some channels; `None` if an operand does not have them.
fn part<'a>(conv: &Conv1d<'a>, channels: Range<usize>) -> Option<Conv1d<'a>> {
    let bias = match conv.bias {
        Some(bias) => Some(bias.get(channels.clone())?),
        None => None,
    };
    Some(Conv1d { weight: conv.weight.columns(channels)?, bias, ..*conv })
}

/// All tokens of the channels from `at`, with `KEPT` inputs kept.
#[inline]
#[target_feature(enable = "avx2")]
fn sixteen_channels<const KEPT: usize>(conv: &Conv1d<'_>, at: usize, state: &mut RowsMut<'_>, x: &mut RowsMut<'_>) {
    let load = |x: &[f32]| x.get(at..).and_then(|x| x.first_chunk()).map_or([_mm256_setzero_ps(); PAIR], |x| sixteen(x));
    let store = |x: &mut [f32], lanes| {
        if let Some(x) = x.get_mut(at..).and_then(|x| x.first_chunk_mut()) {
            *x = to_array(lanes);
        }
    };
    let mut weights = [[_mm256_setzero_ps(); PAIR]; KEPT];
    let mut window = [[_mm256_setzero_ps(); PAIR]; KEPT];
    for tap in 0..KEPT {
        weights[tap] = load(conv.weight.row(tap));
        window[tap] = load(state.row(tap));
    }
    let newest_weight = load(conv.weight.row(KEPT));
    let bias = conv.bias.map_or([_mm256_setzero_ps(); PAIR], load);
    for t in 0..x.rows() {
        let newest = load(x.row(t));
        let mut acc = bias;
        for tap in 0..KEPT {
            acc = each!(i < PAIR: _mm256_add_ps(acc[i], _mm256_mul_ps(weights[tap][i], window[tap][i])));
            window[tap] = if tap + 1 < KEPT { window[tap + 1] } else { newest };
        }
        acc = each!(i < PAIR: _mm256_add_ps(acc[i], _mm256_mul_ps(newest_weight[i], newest[i])));
        store(x.row_mut(t), acc);
    }
    for (tap, window) in window.into_iter().enumerate() {
        store(state.row_mut(tap), window);
    }
}
