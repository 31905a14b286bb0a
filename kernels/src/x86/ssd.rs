//! The state-space dual recurrence: a part of a head's state stays in registers while a few tokens pass; a lone token takes the
//! state as it comes from memory.

use super::act::{each, exp, softplus};
use super::lanes::{self, LANES, TOGETHER, load_part};
use super::stored::Cell;
use crate::portable;
use crate::rows::RowsMut;
use crate::state::StateMut;
use crate::table::Ssd;
use core::arch::x86_64::*;

/// Tokens that pass before the state goes back to memory.
const TOKENS: usize = 32;

/// What a few tokens bring for sixteen heads.
#[derive(Clone, Copy)]
struct Passing<'p> {
    first: usize,
    /// Step sizes, (tokens), a lane a head.
    dt: &'p [[f32; LANES]],
    /// Decays, (tokens), a lane a head.
    decay: &'p [[f32; LANES]],
}

/// One head on its way through the tokens.
struct Head<'a> {
    ssd: &'a Ssd<'a>,
    passing: Passing<'a>,
    /// Lane of the step sizes.
    lane: usize,
    /// First of the head's channels in x and y.
    channel: usize,
    head_dim: usize,
    /// First of the group's numbers in b and c.
    group: usize,
    d_state: usize,
    d: f32,
}

/// See [`portable::ssd`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn ssd(ssd: &Ssd<'_>, states: &mut [StateMut<'_>], mut y: RowsMut<'_>) {
    if let Some(shape) = fits(ssd, &y)
        && states.len() > 1
        && states.len() == ssd.x.rows()
        && states.iter().all(|state| has_shape(state, ssd.a.len(), shape))
    {
        return streams(ssd, shape, states, &mut y);
    }
    ssd.each_stream(states, y, |ssd, state, y| match state {
        StateMut::F32(state) => walk(ssd, state, y),
        StateMut::F16(state) => walk(ssd, state, y),
    });
}

/// Width of a head and of its state; `None` if an operand is too small for them.
fn fits(ssd: &Ssd<'_>, y: &RowsMut<'_>) -> Option<[usize; 2]> {
    let (tokens, heads) = (ssd.x.rows(), ssd.a.len());
    let head_dim = ssd.x.width() / heads.max(1);
    let d_state = ssd.b.width() / ssd.groups.max(1);
    let last_group = (ssd.first_head + heads.saturating_sub(1)) / ssd.heads_per_group.max(1);
    let groups_end = (last_group + 1) * d_state;
    let whole = |rows: usize, width: usize, wanted: usize| rows >= tokens && width >= wanted;
    let fits = whole(ssd.dt.rows(), ssd.dt.width(), heads)
        && whole(ssd.b.rows(), ssd.b.width(), groups_end)
        && whole(ssd.c.rows(), ssd.c.width(), groups_end)
        && whole(y.rows(), y.width(), heads * head_dim)
        && ssd.dt_bias.len() >= heads
        && ssd.d.len() >= heads
        && head_dim * d_state > 0;
    fits.then_some([head_dim, d_state])
}

fn has_shape(state: &StateMut<'_>, heads: usize, [head_dim, d_state]: [usize; 2]) -> bool {
    let (rows, width) = match state {
        StateMut::F32(state) => (state.rows(), state.width()),
        StateMut::F16(state) => (state.rows(), state.width()),
    };
    rows >= heads && width >= head_dim * d_state
}

/// A token of each of several streams: their step sizes and decays are computed together.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn streams(ssd: &Ssd<'_>, shape: [usize; 2], states: &mut [StateMut<'_>], y: &mut RowsMut<'_>) {
    let heads = ssd.a.len();
    let (mut dt, mut decay) = ([[0.0; LANES]; TOKENS], [[0.0; LANES]; TOKENS]);
    for (some, states) in states.chunks_mut(TOKENS).enumerate() {
        let first = some * TOKENS;
        for first_head in (0..heads).step_by(LANES) {
            arrive_all(ssd, first_head, first, &mut dt[..states.len()], &mut decay[..states.len()]);
            for (i, state) in states.iter_mut().enumerate() {
                let passing = Passing { first: first + i, dt: &dt[i..=i], decay: &decay[i..=i] };
                match state {
                    StateMut::F32(state) => lone(ssd, passing, shape, first_head, state, y),
                    StateMut::F16(state) => lone(ssd, passing, shape, first_head, state, y),
                }
            }
        }
    }
}

/// A lone token through up to sixteen heads from `first_head`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn lone<T: Cell>(
    ssd: &Ssd<'_>,
    passing: Passing<'_>,
    shape: [usize; 2],
    first_head: usize,
    state: &mut RowsMut<'_, T>,
    y: &mut RowsMut<'_>,
) {
    for lane in 0..LANES.min(ssd.a.len() - first_head) {
        let state = &mut state.row_mut(first_head + lane)[..shape[0] * shape[1]];
        Head::new(ssd, passing, shape, first_head, lane).lone(state, y);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn walk<T: Cell>(ssd: &Ssd<'_>, mut state: RowsMut<'_, T>, mut y: RowsMut<'_>) {
    let (tokens, heads) = (ssd.x.rows(), ssd.a.len());
    let shape = match fits(ssd, &y) {
        Some(shape @ [head_dim, d_state]) if state.rows() >= heads && state.width() >= head_dim * d_state => shape,
        _ => return portable::ssd::<T::Portable>(ssd, state, y),
    };
    if tokens == 1 {
        for first_head in (0..heads).step_by(LANES) {
            let ([dt], [decay]) = arrive(ssd, first_head, [0]);
            let (dt, decay) = ([to_array(dt)], [to_array(decay)]);
            lone(ssd, Passing { first: 0, dt: &dt, decay: &decay }, shape, first_head, &mut state, &mut y);
        }
        return;
    }
    let (mut dt, mut decay) = ([[0.0; LANES]; TOKENS], [[0.0; LANES]; TOKENS]);
    for first in (0..tokens).step_by(TOKENS) {
        let count = (tokens - first).min(TOKENS);
        for first_head in (0..heads).step_by(LANES) {
            arrive_all(ssd, first_head, first, &mut dt[..count], &mut decay[..count]);
            for lane in 0..LANES.min(heads - first_head) {
                let state = &mut state.row_mut(first_head + lane)[..shape[0] * shape[1]];
                Head::new(ssd, Passing { first, dt: &dt[..count], decay: &decay[..count] }, shape, first_head, lane).all(state, &mut y);
            }
        }
    }
}

/// Step sizes and decays of up to sixteen heads from `head` at some tokens, a lane a head.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn arrive<const K: usize>(ssd: &Ssd<'_>, head: usize, tokens: [usize; K]) -> ([__m512; K], [__m512; K]) {
    let (bias, a) = (load_part(&ssd.dt_bias[head..]), load_part(&ssd.a[head..]));
    let (lowest, highest, gap) = (_mm512_set1_ps(ssd.dt_lo), _mm512_set1_ps(ssd.dt_hi), _mm512_set1_ps(ssd.gap));
    let dt = softplus(each!(i < K: _mm512_add_ps(load_part(&ssd.dt.row(tokens[i])[head..]), bias)));
    // A NaN is in the second place, and stays.
    let dt = each!(i < K: _mm512_mul_ps(_mm512_min_ps(highest, _mm512_max_ps(lowest, dt[i])), gap));
    (dt, exp(each!(i < K: _mm512_mul_ps(dt[i], a))))
}

/// [`arrive`] at the tokens from `first`, as many as there are places.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn arrive_all(ssd: &Ssd<'_>, head: usize, first: usize, dt: &mut [[f32; LANES]], decay: &mut [[f32; LANES]]) {
    for i in (0..dt.len()).step_by(TOGETHER) {
        // Behind the last token the last again: it is stored to the same place.
        let some: [usize; TOGETHER] = core::array::from_fn(|j| (i + j).min(dt.len() - 1));
        let (some_dt, some_decay) = arrive(ssd, head, some.map(|i| first + i));
        for j in 0..TOGETHER {
            (dt[some[j]], decay[some[j]]) = (to_array(some_dt[j]), to_array(some_decay[j]));
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn to_array(lanes: __m512) -> [f32; LANES] {
    let mut x = [0.0; LANES];
    lanes::store(&mut x, lanes);
    x
}

impl<'a> Head<'a> {
    /// Head `lane` behind `first`.
    #[inline]
    fn new(ssd: &'a Ssd<'a>, passing: Passing<'a>, [head_dim, d_state]: [usize; 2], first: usize, lane: usize) -> Self {
        let head = first + lane;
        let group = (ssd.first_head + head) / ssd.heads_per_group.max(1) * d_state;
        Head { ssd, passing, lane, channel: head * head_dim, head_dim, group, d_state, d: ssd.d[head] }
    }

    /// A lone token through the head's `state`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn lone<T: Cell>(&self, state: &mut [T], y: &mut RowsMut<'_>) {
        let mut at = 0;
        while at < self.head_dim {
            at += match (self.head_dim - at) / LANES {
                8.. => self.one::<8, true, T>(at, state, y),
                4.. => self.one::<4, true, T>(at, state, y),
                2.. => self.one::<2, true, T>(at, state, y),
                1 => self.one::<1, true, T>(at, state, y),
                0 => self.one::<1, false, T>(at, state, y),
            };
        }
    }

    /// All tokens through the head's `state`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn all<T: Cell>(&self, state: &mut [T], y: &mut RowsMut<'_>) {
        let mut at = 0;
        while at < self.head_dim {
            at += match (self.head_dim - at) / LANES {
                4.. => self.some::<4, 4, true, T>(at, state, y),
                2.. => self.some::<2, 8, true, T>(at, state, y),
                1 => self.some::<1, 16, true, T>(at, state, y),
                0 => self.some::<1, 16, false, T>(at, state, y),
            };
        }
    }

    /// The head's number `n` of a token's b or c.
    #[inline]
    fn of_group(&self, row: &[f32], n: usize) -> *const f32 {
        debug_assert!(row.len() >= self.group + self.d_state && n < self.d_state);
        // SAFETY: rows of b and c were seen to reach as far as the last group's end.
        unsafe { row.as_ptr().add(self.group + n) }
    }

    /// `C` registers of the head's input from channel `at`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn x<const C: usize, const FULL: bool>(&self, t: usize, at: usize) -> [__m512; C] {
        let x = self.ssd.x.row(t);
        debug_assert!(x.len() >= self.channel + self.head_dim && self.head_dim >= at + if FULL { C * LANES } else { 1 });
        let mask = lanes::mask(self.head_dim - at);
        let mut lanes = [_mm512_setzero_ps(); C];
        for (c, lanes) in lanes.iter_mut().enumerate() {
            // SAFETY: there are `C` whole registers left of the head, or a part of one.
            *lanes = unsafe { f32::load::<FULL>(x.as_ptr().add(self.channel + at + c * LANES), mask) };
        }
        lanes
    }

    /// Adds the skip and stores the output.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn leave<const C: usize, const FULL: bool>(&self, t: usize, at: usize, sum: [__m512; C], y: &mut RowsMut<'_>) {
        let (x, d) = (self.x::<C, FULL>(t, at), _mm512_set1_ps(self.d));
        let y = &mut y.row_mut(t)[self.channel + at..self.channel + self.head_dim];
        let mask = lanes::mask(y.len());
        for c in 0..C {
            let sum = _mm512_add_ps(sum[c], _mm512_mul_ps(d, x[c]));
            // SAFETY: there are `C` whole registers left of the head, or a part of one.
            unsafe { f32::store::<FULL>(y.as_mut_ptr().add(c * LANES), mask, sum) };
        }
    }

    /// One token through the columns from `at` of every row. Returns how many.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn one<const C: usize, const FULL: bool, T: Cell>(&self, at: usize, state: &mut [T], y: &mut RowsMut<'_>) -> usize {
        let (t, mask) = (self.passing.first, lanes::mask(self.head_dim - at));
        // SAFETY: a group has `d_state` numbers.
        let of_group = |row| unsafe { core::slice::from_raw_parts(self.of_group(row, 0), self.d_state) };
        let (b, c) = (of_group(self.ssd.b.row(t)), of_group(self.ssd.c.row(t)));
        let (decay, dt) = (_mm512_set1_ps(self.passing.decay[0][self.lane]), _mm512_set1_ps(self.passing.dt[0][self.lane]));
        let mut dx = self.x::<C, FULL>(t, at);
        for dx in &mut dx {
            *dx = _mm512_mul_ps(dt, *dx);
        }
        let mut sum = [_mm512_setzero_ps(); C];
        for ((row, &b), &c) in state.chunks_exact_mut(self.head_dim).zip(b).zip(c) {
            let (b, c) = (_mm512_set1_ps(b), _mm512_set1_ps(c));
            for i in 0..C {
                // SAFETY: there are `C` whole registers left of the row, or a part of one.
                unsafe {
                    let place = row.as_mut_ptr().add(at + i * LANES);
                    let kept = _mm512_mul_ps(decay, T::load::<FULL>(place, mask));
                    let s = _mm512_add_ps(kept, _mm512_mul_ps(dx[i], b));
                    T::store::<FULL>(place, mask, s);
                    sum[i] = _mm512_add_ps(sum[i], _mm512_mul_ps(c, s));
                }
            }
        }
        self.leave::<C, FULL>(t, at, sum, y);
        C * LANES
    }

    /// All tokens through the columns from `at`, `R` rows at a time. Returns how many columns.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn some<const C: usize, const R: usize, const FULL: bool, T: Cell>(&self, at: usize, state: &mut [T], y: &mut RowsMut<'_>) -> usize {
        let mut sums = [[_mm512_setzero_ps(); C]; TOKENS];
        let mut blocks = state.chunks_exact_mut(R * self.head_dim);
        let mut n = 0;
        for rows in &mut blocks {
            self.pass::<C, R, FULL, T>(n, at, rows, &mut sums);
            n += R;
        }
        for row in blocks.into_remainder().chunks_exact_mut(self.head_dim) {
            self.pass::<C, 1, FULL, T>(n, at, row, &mut sums);
            n += 1;
        }
        for i in 0..self.passing.dt.len() {
            self.leave::<C, FULL>(self.passing.first + i, at, sums[i], y);
        }
        C * LANES
    }

    /// All tokens through `R` rows, the first of them row `n` of the head.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn pass<const C: usize, const R: usize, const FULL: bool, T: Cell>(
        &self,
        n: usize,
        at: usize,
        rows: &mut [T],
        sums: &mut [[__m512; C]; TOKENS],
    ) {
        let mask = lanes::mask(self.head_dim - at);
        debug_assert!(rows.len() == R * self.head_dim);
        let mut s = [[_mm512_setzero_ps(); C]; R];
        for r in 0..R {
            for c in 0..C {
                // SAFETY: there are `R` rows, and `C` whole registers left of each, or a part of one.
                s[r][c] = unsafe { T::load::<FULL>(rows.as_ptr().add(r * self.head_dim + at + c * LANES), mask) };
            }
        }
        for i in 0..self.passing.dt.len() {
            let t = self.passing.first + i;
            let (b, c) = (self.of_group(self.ssd.b.row(t), n), self.of_group(self.ssd.c.row(t), n));
            let (decay, dt) = (_mm512_set1_ps(self.passing.decay[i][self.lane]), _mm512_set1_ps(self.passing.dt[i][self.lane]));
            let mut dx = self.x::<C, FULL>(t, at);
            for dx in &mut dx {
                *dx = _mm512_mul_ps(dt, *dx);
            }
            let mut sum = sums[i];
            for r in 0..R {
                // SAFETY: the group has these `R` numbers, as there are as many rows.
                let (b, c) = unsafe { (_mm512_set1_ps(*b.add(r)), _mm512_set1_ps(*c.add(r))) };
                for i in 0..C {
                    s[r][i] = _mm512_add_ps(_mm512_mul_ps(decay, s[r][i]), _mm512_mul_ps(dx[i], b));
                    sum[i] = _mm512_add_ps(sum[i], _mm512_mul_ps(c, s[r][i]));
                    // SAFETY: the features are there.
                    s[r][i] = unsafe { T::found(s[r][i]) };
                }
            }
            sums[i] = sum;
        }
        for r in 0..R {
            for c in 0..C {
                // SAFETY: as for the loads.
                unsafe { T::store::<FULL>(rows.as_mut_ptr().add(r * self.head_dim + at + c * LANES), mask, s[r][c]) };
            }
        }
    }
}
