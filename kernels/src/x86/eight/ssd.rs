//! The state-space dual recurrence. What is computed per number of the state is little; so some rows of a head's state stay in the first-level
//! cache while all tokens pass.

use super::act::{each, exp, softplus};
use super::lanes::{PAIR, SIXTEEN, TOGETHER, map_with, several, sixteen, to_array};
use crate::portable::{self, stored::Stored};
use crate::rows::RowsMut;
use crate::state::StateMut;
use crate::table::Ssd;
use crate::x86::ssd::fits;
use crate::x86::stored::F16c;
use core::arch::x86_64::*;

/// Tokens and heads whose step sizes are computed before the tokens pass.
const TOKENS: usize = 32;
const HEADS: usize = 32;
/// Numbers of a head's state that stay near while these tokens pass.
const NEAR: usize = 1024;

/// See [`portable::ssd`].
#[target_feature(enable = "avx2,f16c")]
pub(in crate::x86) fn ssd(ssd: &Ssd<'_>, states: &mut [StateMut<'_>], y: RowsMut<'_>) {
    ssd.each_stream(states, y, |ssd, state, y| {
        with_rows!(state, F16c, |state, Stored| walk::<Stored>(ssd, state, y));
    });
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn walk<S: Stored>(ssd: &Ssd<'_>, mut state: RowsMut<'_, S::Cell>, mut y: RowsMut<'_>) {
    let (tokens, heads) = (ssd.x.rows(), ssd.a.len());
    let shape = match fits(ssd, &y) {
        Some([dim, d_state]) if dim.is_multiple_of(SIXTEEN) && state.rows() >= heads && state.width() >= dim * d_state => [dim, d_state],
        _ => return portable::ssd::<S>(ssd, state, y),
    };
    let mut passing = Passing { first: 0, count: 0, dt: [[0.0; HEADS]; TOKENS], decay: [[0.0; HEADS]; TOKENS] };
    for first in (0..tokens).step_by(TOKENS) {
        (passing.first, passing.count) = (first, TOKENS.min(tokens - first));
        for first_head in (0..heads).step_by(HEADS) {
            passing.arrive(ssd, first_head);
            for lane in 0..HEADS.min(heads - first_head) {
                let head = Head::new(ssd, &passing, shape, first_head, lane);
                head.all::<S>(&mut state.row_mut(first_head + lane)[..shape[0] * shape[1]], &mut y);
            }
        }
    }
}

/// Some tokens, and the step sizes that they bring for some heads.
struct Passing {
    /// The first of them.
    first: usize,
    count: usize,
    /// Step sizes.
    dt: [[f32; HEADS]; TOKENS],
    decay: [[f32; HEADS]; TOKENS],
}

impl Passing {
    /// Computes step sizes and decays of the heads from `head`.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn arrive(&mut self, ssd: &Ssd<'_>, head: usize) {
        let (lowest, highest, gap) = (_mm256_set1_ps(ssd.dt_lo), _mm256_set1_ps(ssd.dt_hi), _mm256_set1_ps(ssd.gap));
        let heads = head..ssd.a.len().min(head + HEADS);
        for (t, (dt, decay)) in self.dt.iter_mut().zip(&mut self.decay).enumerate().take(self.count) {
            let (dt, decay) = (&mut dt[..heads.len()], &mut decay[..heads.len()]);
            dt.copy_from_slice(&ssd.dt.row(self.first + t)[heads.clone()]);
            map_with(dt, &ssd.dt_bias[heads.clone()], |dt, bias| {
                let dt = softplus(each!(i < TOGETHER: _mm256_add_ps(dt[i], bias[i])));
                // A NaN is in the second place, and stays.
                each!(i < TOGETHER: _mm256_mul_ps(_mm256_min_ps(highest, _mm256_max_ps(lowest, dt[i])), gap))
            });
            decay.copy_from_slice(dt);
            map_with(decay, &ssd.a[heads.clone()], |dt, a| exp(each!(i < TOGETHER: _mm256_mul_ps(dt[i], a[i]))));
        }
    }
}

/// One head on its way through the tokens.
struct Head<'a> {
    ssd: &'a Ssd<'a>,
    passing: &'a Passing,
    /// Place among the heads of the step sizes.
    lane: usize,
    dim: usize,
    /// First of the head's channels in x and y.
    channel: usize,
    /// First of the group's numbers in b and c.
    group: usize,
    d_state: usize,
    d: f32,
}

impl<'a> Head<'a> {
    /// Head `lane` behind `first`.
    #[inline]
    fn new(ssd: &'a Ssd<'a>, passing: &'a Passing, [dim, d_state]: [usize; 2], first: usize, lane: usize) -> Self {
        let head = first + lane;
        let group = (ssd.first_head + head) / ssd.heads_per_group.max(1) * d_state;
        Head { ssd, passing, lane, dim, channel: head * dim, group, d_state, d: ssd.d[head] }
    }

    /// Takes the tokens through the head's `state`, (d_state, dim).
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    fn all<S: Stored>(&self, state: &mut [S::Cell], y: &mut RowsMut<'_>) {
        let mut at = 0;
        while at < self.dim {
            at += match (self.dim - at) / SIXTEEN {
                4.. => self.columns::<4, S>(at, state, y),
                2.. => self.columns::<2, S>(at, state, y),
                _ => self.columns::<1, S>(at, state, y),
            };
        }
    }

    /// Takes the tokens through `C` times sixteen columns from `at` of every row. Returns how many columns.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    fn columns<const C: usize, S: Stored>(&self, at: usize, state: &mut [S::Cell], y: &mut RowsMut<'_>) -> usize {
        // A lone token comes back to none.
        let near = if self.passing.count == 1 { self.d_state } else { NEAR.div_ceil(self.dim) };
        let mut n = 0;
        for rows in state.chunks_mut(near * self.dim) {
            let end = n + rows.len() / self.dim;
            for i in 0..self.passing.count {
                let (t, channels) = (self.passing.first + i, self.channel + at..self.channel + at + C * SIXTEEN);
                let (x, y) = (&self.ssd.x.row(t)[channels.clone()], &mut y.row_mut(t)[channels]);
                let (Some(x), Some(y)) = (x.as_chunks().0.first_chunk(), y.as_chunks_mut().0.first_chunk_mut()) else { continue };
                let (x, dt) = (several::<C>(x), _mm256_set1_ps(self.passing.dt[i][self.lane]));
                // A loop, where `map` would be a call.
                let mut dx = x;
                for dx in dx.as_flattened_mut() {
                    *dx = _mm256_mul_ps(dt, *dx);
                }
                let mut pass = Pass {
                    decay: _mm256_set1_ps(self.passing.decay[i][self.lane]),
                    dx,
                    sum: if n == 0 { [[_mm256_setzero_ps(); PAIR]; C] } else { several(y) },
                };
                let states = self.group + n..self.group + end;
                // SAFETY: there are as many rows as states, with so many columns from `at`.
                unsafe {
                    let first = rows.as_mut_ptr().add(at);
                    pass.rows::<S>(first, self.dim, &self.ssd.b.row(t)[states.clone()], &self.ssd.c.row(t)[states]);
                }
                if end == self.d_state {
                    let d = _mm256_set1_ps(self.d);
                    for (sum, x) in pass.sum.as_flattened_mut().iter_mut().zip(x.as_flattened()) {
                        *sum = _mm256_add_ps(*sum, _mm256_mul_ps(d, *x));
                    }
                }
                for (y, sum) in y.iter_mut().zip(pass.sum) {
                    *y = to_array(sum);
                }
            }
            n = end;
        }
        C * SIXTEEN
    }
}

/// A token at some columns of a head, on its way through the rows.
struct Pass<const C: usize> {
    decay: __m256,
    /// Step size times inputs.
    dx: [[__m256; PAIR]; C],
    /// Sums over the rows so far.
    sum: [[__m256; PAIR]; C],
}

impl<const C: usize> Pass<C> {
    /// Steps as many rows as there are in `b` and `c`; each begins `stride` behind the one before.
    ///
    /// # Safety
    /// From `first` and from there on every row has `C` times sixteen numbers.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn rows<S: Stored>(&mut self, first: *mut S::Cell, stride: usize, b: &[f32], c: &[f32]) {
        let Pass { decay, dx, mut sum } = *self;
        let mut row = first;
        for (&b, &c) in b.iter().zip(c) {
            let (b, c) = (_mm256_set1_ps(b), _mm256_set1_ps(c));
            for i in 0..C {
                // SAFETY: the caller's promise.
                let cells = unsafe { &mut *row.add(i * SIXTEEN).cast() };
                let mut state = sixteen(&S::read(cells));
                for r in 0..PAIR {
                    state[r] = _mm256_add_ps(_mm256_mul_ps(decay, state[r]), _mm256_mul_ps(dx[i][r], b));
                    sum[i][r] = _mm256_add_ps(sum[i][r], _mm256_mul_ps(c, state[r]));
                }
                *cells = S::rounded(to_array(state));
            }
            row = row.wrapping_add(stride);
        }
        self.sum = sum;
    }
}
