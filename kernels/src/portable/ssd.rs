//! Steps of the state-space dual recurrence (Mamba-2): one scalar decay per head.

use super::act::{exp, softplus};
use super::scan::{WIDTH, load, store};
use super::stored::Stored;
use crate::rows::RowsMut;
use crate::table::Ssd;

/// `S[h][n][p] <- exp(dt[h] * a[h]) * S[h][n][p] + dt[h] * x[h][p] * b[g][n]`,
/// `y[h][p] = sum_n c[g][n] * S[h][n][p] + d[h] * x[h][p]`, with `g = h / heads_per_group`.
///
/// The state keeps a head's channels next to each other, `(heads, d_state, head_dim)`: channels lie in lanes. A row of it is a head. The
/// sum takes the state as it was computed; how it is stored is what the next token finds.
#[inline(always)]
pub(crate) fn ssd<S: Stored>(ssd: &Ssd<'_>, mut state: RowsMut<'_, S::Cell>, mut y: RowsMut<'_>) {
    let heads = ssd.a.len();
    let head_dim = ssd.x.width() / heads.max(1);
    let d_state = ssd.b.width() / ssd.groups.max(1);
    for t in 0..ssd.x.rows() {
        let (all_x, all_dt, y) = (ssd.x.row(t), ssd.dt.row(t), y.row_mut(t));
        for head in 0..heads {
            let state = state.row_mut(head);
            let at_head = |v: &[f32]| v.get(head).copied().unwrap_or(0.0);
            let dt = softplus(at_head(all_dt) + at_head(ssd.dt_bias));
            let dt = if dt < ssd.dt_lo { ssd.dt_lo } else { dt };
            let dt = if dt > ssd.dt_hi { ssd.dt_hi } else { dt } * ssd.gap;
            let decay = exp(dt * at_head(ssd.a));
            let d = at_head(ssd.d);
            let group = (ssd.first_head + head) / ssd.heads_per_group.max(1) * d_state;
            let b = ssd.b.row(t).get(group..group + d_state).unwrap_or_default();
            let c = ssd.c.row(t).get(group..group + d_state).unwrap_or_default();
            let first = head * head_dim;
            let mut at = 0;
            while at < head_dim {
                let x = load(all_x, first + at, first + head_dim);
                let dx = x.map(|x| dt * x);
                let mut sum = [0.0; WIDTH];
                for ((row, &b), &c) in state.chunks_exact_mut(head_dim).zip(b).zip(c) {
                    let step = |i: usize, s: f32| {
                        let s = decay * s + dx[i] * b;
                        sum[i] += c * s;
                        s
                    };
                    if let Some(s) = row.get_mut(at..).and_then(|row| row.first_chunk_mut::<WIDTH>()) {
                        S::update(s, step);
                    } else {
                        let mut s = load(row, at, head_dim);
                        S::update(&mut s, step);
                        store(row, at, head_dim, s);
                    }
                }
                for i in 0..WIDTH {
                    sum[i] += d * x[i];
                }
                store(y, first + at, first + head_dim, sum);
                at += WIDTH;
            }
        }
    }
}
