//! The gated recurrent cells (LSTM and GRU), sixteen hidden units at a time.

use super::act::{sigmoid, tanh};
use super::lanes::{LANES, load_part, store_part};
use crate::portable;
use crate::table::{Gru, Lstm};
use core::arch::x86_64::*;

/// Sixteen units from `at` of part `part`, or what is left of it.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_of_part(x: &[f32], part: usize, hidden: usize, at: usize) -> __m512 {
    load_part(&x[part * hidden + at..(part + 1) * hidden])
}

/// See [`portable::lstm_step`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn lstm_step(lstm: &Lstm<'_>, c: &mut [f32], h: &mut [f32]) {
    let hidden = h.len();
    if [lstm.input, lstm.recurrent].iter().any(|x| x.len() < 4 * hidden) || c.len() < hidden {
        return portable::lstm_step(lstm, c, h);
    }
    for at in (0..hidden).step_by(LANES) {
        let sum = |part| _mm512_add_ps(load_of_part(lstm.input, part, hidden, at), load_of_part(lstm.recurrent, part, hidden, at));
        let [i, f, o] = sigmoid([sum(0), sum(1), sum(3)]);
        let [g] = tanh([sum(2)]);
        let (c, h) = (&mut c[at..hidden], &mut h[at..]);
        let cell = _mm512_add_ps(_mm512_mul_ps(f, load_part(c)), _mm512_mul_ps(i, g));
        let [out] = tanh([cell]);
        store_part(c, cell);
        store_part(h, _mm512_mul_ps(o, out));
    }
}

/// See [`portable::gru_step`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn gru_step(gru: &Gru<'_>, h: &mut [f32]) {
    let hidden = h.len();
    let is_short = [gru.input, gru.recurrent].iter().any(|x| x.len() < 3 * hidden) || gru.bias.is_some_and(|bias| bias.len() < hidden);
    if is_short {
        return portable::gru_step(gru, h);
    }
    for at in (0..hidden).step_by(LANES) {
        let sum = |part| _mm512_add_ps(load_of_part(gru.input, part, hidden, at), load_of_part(gru.recurrent, part, hidden, at));
        let [r, z] = sigmoid([sum(0), sum(1)]);
        let bias = gru.bias.map_or(_mm512_setzero_ps(), |bias| load_part(&bias[at..hidden]));
        let past = _mm512_add_ps(load_of_part(gru.recurrent, 2, hidden, at), bias);
        let [n] = tanh([_mm512_add_ps(load_of_part(gru.input, 2, hidden, at), _mm512_mul_ps(r, past))]);
        let h = &mut h[at..];
        let state = load_part(h);
        store_part(h, _mm512_add_ps(n, _mm512_mul_ps(z, _mm512_sub_ps(state, n))));
    }
}
