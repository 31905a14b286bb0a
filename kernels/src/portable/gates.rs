//! One step of the gated recurrent cells (LSTM and GRU), after both of their products.

use super::act::{sigmoid, tanh};
use super::scan::{WIDTH, load, store};
use crate::table::{Gru, Lstm};

/// Part `part` of a vector of parts, lanes `at..at + WIDTH`.
#[inline(always)]
fn load_part(x: &[f32], part: usize, hidden: usize, at: usize) -> [f32; WIDTH] {
    load(x, part * hidden + at, (part + 1) * hidden)
}

/// The sum of both products' parts, input first.
#[inline(always)]
fn sum_parts(input: &[f32], recurrent: &[f32], part: usize, hidden: usize, at: usize) -> [f32; WIDTH] {
    let mut sum = load_part(input, part, hidden, at);
    let recurrent = load_part(recurrent, part, hidden, at);
    for i in 0..WIDTH {
        sum[i] += recurrent[i];
    }
    sum
}

/// `c <- sigmoid(f) * c + sigmoid(i) * tanh(g)`, `h <- sigmoid(o) * tanh(c)`, where i, f, g, o are the sums of both products.
#[inline(always)]
pub(crate) fn lstm_step(lstm: &Lstm<'_>, c: &mut [f32], h: &mut [f32]) {
    let hidden = h.len();
    let mut at = 0;
    while at < hidden {
        let [i, f, g, o] = [0, 1, 2, 3].map(|part| sum_parts(lstm.input, lstm.recurrent, part, hidden, at));
        let mut cell = load(c, at, hidden);
        let mut out = [0.0; WIDTH];
        for n in 0..WIDTH {
            cell[n] = sigmoid(f[n]) * cell[n] + sigmoid(i[n]) * tanh(g[n]);
            out[n] = sigmoid(o[n]) * tanh(cell[n]);
        }
        store(c, at, hidden, cell);
        store(h, at, hidden, out);
        at += WIDTH;
    }
}

/// `n = tanh(n_input + sigmoid(r) * (n_recurrent + bias))`, `h <- n + sigmoid(z) * (h - n)`, where r, z are the sums of both
/// products.
#[inline(always)]
pub(crate) fn gru_step(gru: &Gru<'_>, h: &mut [f32]) {
    let hidden = h.len();
    let mut at = 0;
    while at < hidden {
        let [r, z] = [0, 1].map(|part| sum_parts(gru.input, gru.recurrent, part, hidden, at));
        let (new, mut past) = (load_part(gru.input, 2, hidden, at), load_part(gru.recurrent, 2, hidden, at));
        let bias = gru.bias.map_or([0.0; WIDTH], |bias| load(bias, at, hidden));
        let mut state = load(h, at, hidden);
        for i in 0..WIDTH {
            past[i] += bias[i];
            let n = tanh(new[i] + sigmoid(r[i]) * past[i]);
            state[i] = n + sigmoid(z[i]) * (state[i] - n);
        }
        store(h, at, hidden, state);
        at += WIDTH;
    }
}
