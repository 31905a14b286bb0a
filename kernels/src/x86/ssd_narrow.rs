//! Heads of sixteen channels at a lone token of each of several streams: a head's channels fill one register, so that its rows lie in a row in memory,
//! and what all heads share of the token stays in registers while they pass.

use super::act::each;
use super::lanes::{self, LANES};
use crate::rows::RowsMut;
use crate::state::StateMut;
use crate::table::Ssd;
use core::arch::x86_64::*;

/// What a token brings for some heads.
#[derive(Clone, Copy)]
pub(super) struct Token<'a> {
    /// Its place among the tokens.
    pub(super) t: usize,
    /// The first head.
    pub(super) head: usize,
    /// Step sizes, (heads).
    pub(super) dt: &'a [f32],
    /// Decays, (heads).
    pub(super) decay: &'a [f32],
    /// (d_state): those of the heads' group.
    pub(super) b: &'a [f32],
    /// (d_state)
    pub(super) c: &'a [f32],
    /// Bytes from its stream's state to that of the stream to come; 0 if nothing is to be fetched.
    pub(super) behind_bytes: usize,
}

/// Takes a token through its heads. Returns whether they are such heads; if not, it has done nothing.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn step(ssd: &Ssd<'_>, token: Token<'_>, state: &mut StateMut<'_>, y: &mut RowsMut<'_>) -> bool {
    let StateMut::F32(state) = state else { return false };
    match (token.b.len(), token.behind_bytes) {
        (16, 0) => heads::<16, false>(ssd, token, state, y),
        (16, _) => heads::<16, true>(ssd, token, state, y),
        (8, 0) => heads::<8, false>(ssd, token, state, y),
        (8, _) => heads::<8, true>(ssd, token, state, y),
        (4, 0) => heads::<4, false>(ssd, token, state, y),
        (4, _) => heads::<4, true>(ssd, token, state, y),
        _ => return false,
    }
    true
}

/// Heads with `N` rows each; `AHEAD` says that there is a stream to come.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn heads<const N: usize, const AHEAD: bool>(ssd: &Ssd<'_>, token: Token<'_>, state: &mut RowsMut<'_>, y: &mut RowsMut<'_>) {
    let (Some(b), Some(c)) = (token.b.first_chunk::<N>(), token.c.first_chunk::<N>()) else { return };
    let channels = token.head * LANES..(token.head + token.dt.len()) * LANES;
    let x = ssd.x.row(token.t)[channels.clone()].as_chunks::<LANES>().0;
    let y = y.row_mut(token.t)[channels].as_chunks_mut::<LANES>().0;
    let b = each!(i < N: _mm512_set1_ps(b[i]));
    let of_heads = x.iter().zip(y).zip(token.dt.iter().zip(token.decay)).zip(&ssd.d[token.head..]);
    for (i, (((x, y), (dt, decay)), d)) in of_heads.enumerate() {
        let rows = state.row_mut(token.head + i).as_chunks_mut::<LANES>().0;
        let Some(rows) = rows.first_chunk_mut::<N>() else { return };
        let (x, decay) = (lanes::load(x), _mm512_set1_ps(*decay));
        let dx = _mm512_mul_ps(_mm512_set1_ps(*dt), x);
        let mut sum = _mm512_setzero_ps();
        for n in 0..N {
            if AHEAD {
                _mm_prefetch::<_MM_HINT_T0>(rows[n].as_ptr().cast::<i8>().wrapping_add(token.behind_bytes));
            }
            let s = _mm512_add_ps(_mm512_mul_ps(decay, lanes::load(&rows[n])), _mm512_mul_ps(dx, b[n]));
            lanes::store(&mut rows[n], s);
            sum = _mm512_add_ps(sum, _mm512_mul_ps(_mm512_set1_ps(c[n]), s));
        }
        lanes::store(y, _mm512_add_ps(sum, _mm512_mul_ps(_mm512_set1_ps(*d), x)));
    }
}
