//! The gated delta rule: sums over the rows of a head's state for several registers of its channels at once.

use super::act::each;
use super::lanes::{PAIR, SIXTEEN, several, sixteen, to_array};
use crate::portable::{self, DeltaHead, stored::Stored};
use crate::rows::RowsMut;
use crate::state::StateMut;
use crate::table::GatedDelta;
use crate::x86::stored::F16c;
use core::arch::x86_64::*;

/// See [`portable::gated_delta_step`].
#[target_feature(enable = "avx2,f16c")]
pub(in crate::x86) fn gated_delta_step(delta: &GatedDelta<'_>, state: StateMut<'_>, y: &mut [f32]) {
    with_rows!(state, F16c, |state, Stored| walk::<Stored>(delta, state, y));
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn walk<S: Stored>(delta: &GatedDelta<'_>, mut state: RowsMut<'_, S::Cell>, y: &mut [f32]) {
    let heads = delta.a.len();
    let value_dim = delta.v.len() / heads.max(1);
    if value_dim == 0 || !value_dim.is_multiple_of(SIXTEEN) {
        return portable::gated_delta_step::<S>(delta, state, y);
    }
    for (i, (v, y)) in delta.v.chunks_exact(value_dim).zip(y.chunks_exact_mut(value_dim)).enumerate() {
        let (head, state) = (DeltaHead::new(delta, i), state.row_mut(i));
        let mut at = 0;
        while at < value_dim {
            at += match (value_dim - at) / SIXTEEN {
                4.. => columns::<4, S>(&head, state.get_mut(at..).unwrap_or_default(), v, y, at),
                2.. => columns::<2, S>(&head, state.get_mut(at..).unwrap_or_default(), v, y, at),
                _ => columns::<1, S>(&head, state.get_mut(at..).unwrap_or_default(), v, y, at),
            };
        }
    }
}

/// `C` times sixteen channels from `at`, which the `state` begins with; there are as many in all as in `v`. Returns how many channels.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn columns<const C: usize, S: Stored>(head: &DeltaHead<'_>, state: &mut [S::Cell], v: &[f32], y: &mut [f32], at: usize) -> usize {
    let none = [[_mm256_setzero_ps(); PAIR]; C];
    let (Some(v_here), Some(y)) = (v[at..].as_chunks().0.first_chunk::<C>(), y[at..].as_chunks_mut().0.first_chunk_mut::<C>()) else {
        return C * SIXTEEN;
    };
    let decay = _mm256_set1_ps(head.decay);
    let mut held = none;
    for (row, &k) in state.chunks(v.len()).zip(head.k) {
        let k = _mm256_set1_ps(k);
        let Some(row) = row.as_chunks().0.first_chunk::<C>() else { break };
        for i in 0..C {
            let state = sixteen(&S::read(&row[i]));
            for r in 0..PAIR {
                held[i][r] = _mm256_add_ps(held[i][r], _mm256_mul_ps(k, _mm256_mul_ps(state[r], decay)));
            }
        }
    }
    let (beta, k_factor) = (_mm256_set1_ps(head.beta), _mm256_set1_ps(head.k_factor));
    let mut change = several(v_here);
    for (change, held) in change.as_flattened_mut().iter_mut().zip(held.as_flattened()) {
        *change = _mm256_mul_ps(_mm256_mul_ps(beta, _mm256_sub_ps(*change, _mm256_mul_ps(k_factor, *held))), k_factor);
    }
    let mut sum = none;
    for ((row, &k), &q) in state.chunks_mut(v.len()).zip(head.k).zip(head.q) {
        let (k, q) = (_mm256_set1_ps(k), _mm256_set1_ps(q));
        let Some(row) = row.as_chunks_mut().0.first_chunk_mut::<C>() else { break };
        for i in 0..C {
            let mut state = sixteen(&S::read(&row[i]));
            for r in 0..PAIR {
                state[r] = _mm256_add_ps(_mm256_mul_ps(state[r], decay), _mm256_mul_ps(k, change[i][r]));
                sum[i][r] = _mm256_add_ps(sum[i][r], _mm256_mul_ps(q, state[r]));
            }
            row[i] = S::rounded(to_array(state));
        }
    }
    let q_factor = _mm256_set1_ps(head.q_factor);
    for (y, sum) in y.iter_mut().zip(sum) {
        *y = to_array(each!(r < PAIR: _mm256_mul_ps(sum[r], q_factor)));
    }
    C * SIXTEEN
}
