//! One step of the gated delta rule (Gated DeltaNet): a fast-weight memory that decays, and corrects what it holds for a key.

use super::act::{exp, sigmoid, softplus};
use super::reduce::sum_of;
use super::scan::{WIDTH, load, store};
use super::stored::Stored;
use crate::rows::RowsMut;
use crate::sqrt::sqrt;
use crate::table::GatedDelta;

/// With `k` and `q` divided by their lengths, `q` also multiplied by `scale`, of key head `h / (heads / key_heads)`:
///
/// `S[h][n][p] <- exp(decay[h] * softplus(a[h] + dt_bias[h])) * S[h][n][p]`, `held[p] = sum_n k[n] * S[h][n][p]`,
/// `S[h][n][p] <- S[h][n][p] + k[n] * beta_scale * sigmoid(b[h]) * (v[h][p] - held[p])`, `y[h][p] = sum_n q[n] * S[h][n][p]`.
///
/// The state keeps a head's value channels next to each other, `(heads, key_dim, value_dim)`: channels lie in lanes, and the
/// sums over the key are sequential. The lengths leave the sums as factors. A row of the state is a head; it is stored once, after the
/// change, and the output takes it as it was computed.
#[inline(always)]
pub(crate) fn gated_delta_step<S: Stored>(delta: &GatedDelta<'_>, mut state: RowsMut<'_, S::Cell>, y: &mut [f32]) {
    let heads = delta.a.len();
    let value_dim = delta.v.len() / heads.max(1);
    for head in 0..heads {
        let state = state.row_mut(head);
        let Head { decay, beta, k, q, k_factor, q_factor } = Head::new(delta, head);
        let first = head * value_dim;
        let mut at = 0;
        while at < value_dim {
            let mut held = [0.0; WIDTH];
            for (n, &k) in k.iter().enumerate() {
                let row = n * value_dim;
                let s = S::read(&load(state, row + at, row + value_dim));
                for i in 0..WIDTH {
                    held[i] += k * (s[i] * decay);
                }
            }
            let v = load(delta.v, first + at, first + value_dim);
            let mut change = [0.0; WIDTH];
            for i in 0..WIDTH {
                change[i] = beta * (v[i] - k_factor * held[i]) * k_factor;
            }
            let mut sum = [0.0; WIDTH];
            for (n, (&k, &q)) in k.iter().zip(q).enumerate() {
                let row = n * value_dim;
                let mut s = load(state, row + at, row + value_dim);
                S::update(&mut s, |i, s| {
                    let s = s * decay + k * change[i];
                    sum[i] += q * s;
                    s
                });
                store(state, row + at, row + value_dim, s);
            }
            for sum in &mut sum {
                *sum *= q_factor;
            }
            store(y, first + at, first + value_dim, sum);
            at += WIDTH;
        }
    }
}

/// What is known of a head before its state is seen.
pub(crate) struct Head<'a> {
    pub(crate) decay: f32,
    pub(crate) beta: f32,
    /// (key_dim)
    pub(crate) k: &'a [f32],
    /// (key_dim)
    pub(crate) q: &'a [f32],
    pub(crate) k_factor: f32,
    pub(crate) q_factor: f32,
}

impl<'a> Head<'a> {
    #[inline(always)]
    pub(crate) fn new(delta: &GatedDelta<'a>, head: usize) -> Self {
        let key_heads = delta.key_heads.max(1);
        let key_dim = delta.k.len() / key_heads;
        let at_head = |v: &[f32]| v.get(head).copied().unwrap_or(0.0);
        let decay = exp(at_head(delta.decay) * softplus(at_head(delta.a) + at_head(delta.dt_bias)));
        let beta = delta.beta_scale * sigmoid(at_head(delta.b));
        let key = head / (delta.a.len() / key_heads).max(1) * key_dim;
        let k = delta.k.get(key..key + key_dim).unwrap_or_default();
        let q = delta.q.get(key..key + key_dim).unwrap_or_default();
        let inverse_length = |x: &[f32]| 1.0 / sqrt(sum_of(x, |x| x * x) + delta.eps);
        Head { decay, beta, k, q, k_factor: inverse_length(k), q_factor: inverse_length(q) * delta.scale }
    }
}
