//! The causal convolution: weights and window of sixteen channels stay in registers while the tokens pass.

use super::act::{each, silu};
use super::lanes::{LANES, map, mask};
use super::stored::Cell;
use crate::portable;
use crate::rows::RowsMut;
use crate::state::StateMut;
use crate::table::Conv1d;
use core::arch::x86_64::*;

/// See [`portable::conv1d`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn conv1d(conv: &Conv1d<'_>, mut state: RowsMut<'_>, mut x: RowsMut<'_>) {
    match conv.taps {
        4 if fits(conv, &state, &x) => all::<3>(conv, &mut state, &mut x),
        3 if fits(conv, &state, &x) => all::<2>(conv, &mut state, &mut x),
        2 if fits(conv, &state, &x) => all::<1>(conv, &mut state, &mut x),
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
fn all<const KEPT: usize>(conv: &Conv1d<'_>, state: &mut RowsMut<'_>, x: &mut RowsMut<'_>) {
    if x.rows() != 1 {
        return channels::<KEPT>(conv, state, x);
    }
    let channels = x.width();
    let mut at = 0;
    while at < channels {
        at += match (channels - at) / LANES {
            8.. => one::<KEPT, 8, true>(conv, at, state, x),
            4.. => one::<KEPT, 4, true>(conv, at, state, x),
            1.. => one::<KEPT, 1, true>(conv, at, state, x),
            0 => one::<KEPT, 1, false>(conv, at, state, x),
        };
    }
}

/// A lone token at `C` registers of channels from `at`, or at a part of one: nothing waits for its sums to be stored. Returns how
/// many channels that are at most.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn one<const KEPT: usize, const C: usize, const FULL: bool>(
    conv: &Conv1d<'_>,
    at: usize,
    state: &mut RowsMut<'_>,
    x: &mut RowsMut<'_>,
) -> usize {
    let mask = mask(x.width() - at);
    // SAFETY: every row was seen to be as wide as x, which has these registers, or the part that the mask lets through.
    let load = |x: &[f32], i: usize| unsafe { f32::load::<FULL>(x.as_ptr().add(at + i * LANES), mask) };
    // SAFETY: as above.
    let store = |x: &mut [f32], i: usize, lanes| unsafe { f32::store::<FULL>(x.as_mut_ptr().add(at + i * LANES), mask, lanes) };
    let mut acc = match conv.bias {
        Some(bias) => each!(i < C: load(bias, i)),
        None => [_mm512_setzero_ps(); C],
    };
    for i in 0..C {
        let newest = load(x.row(0), i);
        let mut older = load(state.row(0), i);
        for tap in 0..KEPT {
            acc[i] = _mm512_add_ps(acc[i], _mm512_mul_ps(load(conv.weight.row(tap), i), older));
            let next = if tap + 1 < KEPT { load(state.row(tap + 1), i) } else { newest };
            store(state.row_mut(tap), i, next);
            older = next;
        }
        acc[i] = _mm512_add_ps(acc[i], _mm512_mul_ps(load(conv.weight.row(KEPT), i), newest));
    }
    if conv.silu {
        acc = silu(acc);
    }
    for i in 0..C {
        store(x.row_mut(0), i, acc[i]);
    }
    C * LANES
}

/// Streams that share what is fetched of the weights.
const STREAMS: usize = 4;

/// A token of each of several streams, (streams, channels). Returns whether it is for such a convolution.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn streams(conv: &Conv1d<'_>, states: &mut [StateMut<'_>], x: &mut RowsMut<'_>) -> bool {
    let stride = match states.first() {
        Some(StateMut::F32(state)) => state.stride(),
        _ => return false,
    };
    // Fewer than three streams take as long as four.
    let all_fit = x.rows() == states.len()
        && states.len() >= 3
        && states.iter().all(|state| match state {
            StateMut::F32(state) => fits(conv, state, x) && state.stride() == stride,
            StateMut::F16(_) => false,
        });
    match conv.taps {
        4 if all_fit => several::<3>(conv, stride, states, x),
        3 if all_fit => several::<2>(conv, stride, states, x),
        2 if all_fit => several::<1>(conv, stride, states, x),
        _ => return false,
    }
    true
}

/// [`STREAMS`] streams on their way, whose states have rows so far apart; behind the last stream the last again: nothing is read after it was written.
struct Block {
    inputs: [*mut f32; STREAMS],
    states: [*mut f32; STREAMS],
    stride: usize,
    /// The states of the streams to come: nobody foresees where they lie.
    behind: [*const f32; STREAMS],
}

/// All streams, with `KEPT` inputs kept.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn several<const KEPT: usize>(conv: &Conv1d<'_>, stride: usize, states: &mut [StateMut<'_>], x: &mut RowsMut<'_>) {
    let channels = x.width();
    for first in (0..states.len()).step_by(STREAMS) {
        let (inputs, rows, behind) = ([core::ptr::null_mut(); STREAMS], [core::ptr::null_mut(); STREAMS], [core::ptr::null(); STREAMS]);
        let mut block = Block { inputs, states: rows, stride, behind };
        for i in 0..STREAMS {
            let last = (first + i).min(states.len() - 1);
            block.inputs[i] = x.row_mut(last).as_mut_ptr();
            if let StateMut::F32(state) = &mut states[last] {
                block.states[i] = state.row_mut(0).as_mut_ptr();
            }
            if let Some(StateMut::F32(state)) = states.get(first + STREAMS + i) {
                block.behind[i] = state.row(0).as_ptr();
            }
        }
        let mut at = 0;
        while at < channels {
            at += match (channels - at) / LANES {
                2.. => block.step::<KEPT, 2, { 2 * STREAMS }, true>(conv, at, 0),
                1 => block.step::<KEPT, 1, STREAMS, true>(conv, at, 0),
                0 => block.step::<KEPT, 1, STREAMS, false>(conv, at, mask(channels - at)),
            };
        }
    }
}

impl Block {
    /// `C` registers of channels from `at`, or the part of one that the mask says, of every stream: `N` in all. Returns how many channels that are at most.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn step<const KEPT: usize, const C: usize, const N: usize, const FULL: bool>(
        &self,
        conv: &Conv1d<'_>,
        at: usize,
        mask: __mmask16,
    ) -> usize {
        // SAFETY: every row was seen to be as wide as x, and the mask lets no channel beyond that through.
        let load = |x: *const f32, c: usize| unsafe { f32::load::<FULL>(x.add(at + c * LANES), mask) };
        // SAFETY: as above.
        let store = |x: *mut f32, c: usize, lanes| unsafe { f32::store::<FULL>(x.add(at + c * LANES), mask, lanes) };
        for tap in 0..KEPT {
            for i in 0..N {
                _mm_prefetch::<_MM_HINT_T0>(self.behind[i % STREAMS].wrapping_add(tap * self.stride + at + i / STREAMS * LANES).cast());
            }
        }
        let mut acc = [_mm512_setzero_ps(); N];
        if let Some(bias) = conv.bias {
            acc = each!(i < N: load(bias.as_ptr(), i / STREAMS));
        }
        let newest = each!(i < N: load(self.inputs[i % STREAMS], i / STREAMS));
        let mut older = each!(i < N: load(self.states[i % STREAMS], i / STREAMS));
        for tap in 0..KEPT {
            let weight: [__m512; C] = core::array::from_fn(|c| load(conv.weight.row(tap).as_ptr(), c));
            acc = each!(i < N: _mm512_add_ps(acc[i], _mm512_mul_ps(weight[i / STREAMS], older[i])));
            let next = if tap + 1 < KEPT {
                each!(i < N: load(self.states[i % STREAMS].wrapping_add((tap + 1) * self.stride), i / STREAMS))
            } else {
                newest
            };
            for i in 0..N {
                store(self.states[i % STREAMS].wrapping_add(tap * self.stride), i / STREAMS, next[i]);
            }
            older = next;
        }
        let weight: [__m512; C] = core::array::from_fn(|c| load(conv.weight.row(KEPT).as_ptr(), c));
        acc = each!(i < N: _mm512_add_ps(acc[i], _mm512_mul_ps(weight[i / STREAMS], newest[i])));
        if conv.silu {
            acc = silu(acc);
        }
        for i in 0..N {
            store(self.inputs[i % STREAMS], i / STREAMS, acc[i]);
        }
        C * LANES
    }
}

/// All channels at some tokens, with `KEPT` inputs kept.
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
