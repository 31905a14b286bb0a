//! The gated recurrent cells (LSTM and GRU), [`FLOATS`] hidden units at a time.

use super::act::{each, sigmoid, tanh};
use super::lanes::{FLOATS, Several, TOGETHER, load_part, store_part};
use crate::portable;
use crate::table::{Gru, Lstm};
use core::arch::x86_64::*;

/// Units from `at` of part `part`, or what is left of it.
#[inline]
#[target_feature(enable = "avx2")]
fn load_of_part(x: &[f32], part: usize, hidden: usize, at: usize) -> Several {
    load_part(&x[part * hidden + at..(part + 1) * hidden])
}

#[inline]
#[target_feature(enable = "avx2")]
fn add(x: Several, y: Several) -> Several {
    each!(i < TOGETHER: _mm256_add_ps(x[i], y[i]))
}

#[inline]
#[target_feature(enable = "avx2")]
fn multiply(x: Several, y: Several) -> Several {
    each!(i < TOGETHER: _mm256_mul_ps(x[i], y[i]))
}

/// See [`portable::lstm_step`].
#[target_feature(enable = "avx2")]
pub(in crate::x86) fn lstm_step(lstm: &Lstm<'_>, c: &mut [f32], h: &mut [f32]) {
    let hidden = h.len();
    if [lstm.input, lstm.recurrent].iter().any(|x| x.len() < 4 * hidden) || c.len() < hidden {
        return portable::lstm_step(lstm, c, h);
    }
    for at in (0..hidden).step_by(FLOATS) {
        let sum = |part| add(load_of_part(lstm.input, part, hidden, at), load_of_part(lstm.recurrent, part, hidden, at));
        let end = hidden.min(at + FLOATS);
        let (c, h) = (&mut c[at..end], &mut h[at..end]);
        let cell = add(multiply(sigmoid(sum(1)), load_part(c)), multiply(sigmoid(sum(0)), tanh(sum(2))));
        store_part(c, cell);
        store_part(h, multiply(sigmoid(sum(3)), tanh(cell)));
    }
}

/// See [`portable::gru_step`].
#[target_feature(enable = "avx2")]
pub(in crate::x86) fn gru_step(gru: &Gru<'_>, h: &mut [f32]) {
    let hidden = h.len();
    let is_short = [gru.input, gru.recurrent].iter().any(|x| x.len() < 3 * hidden) || gru.bias.is_some_and(|bias| bias.len() < hidden);
    if is_short {
        return portable::gru_step(gru, h);
    }
    for at in (0..hidden).step_by(FLOATS) {
        let sum = |part| add(load_of_part(gru.input, part, hidden, at), load_of_part(gru.recurrent, part, hidden, at));
        let bias = gru.bias.map_or([_mm256_setzero_ps(); TOGETHER], |bias| load_part(&bias[at..hidden]));
        let past = add(load_of_part(gru.recurrent, 2, hidden, at), bias);
        let n = tanh(add(load_of_part(gru.input, 2, hidden, at), multiply(sigmoid(sum(0)), past)));
        let z = sigmoid(sum(1));
        let h = &mut h[at..hidden.min(at + FLOATS)];
        let state = load_part(h);
        store_part(h, add(n, multiply(z, each!(i < TOGETHER: _mm256_sub_ps(state[i], n[i])))));
    }
}
