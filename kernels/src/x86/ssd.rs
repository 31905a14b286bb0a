//! The state-space dual recurrence: a part of a head's state stays in registers while a few tokens pass; a lone token takes the
//! state as it comes from memory.

use super::act::{each, exp, softplus};
use super::lanes::{self, LANES, TOGETHER, load_part};
use super::ssd_narrow;
use super::stored::Cell;
use crate::portable;
use crate::rows::RowsMut;
use crate::state::StateMut;
use crate::table::Ssd;
use core::arch::x86_64::*;
use core::ops::Range;

/// Tokens that pass before the state goes back to memory.
const TOKENS: usize = 32;
/// Numbers of sixteen heads at those.
const NUMBERS: usize = TOKENS * LANES;
/// Numbers of a layer's state up to which a stream's is fetched while the one before is stepped.
const NEAR: usize = 4096;

/// What a few tokens bring for up to sixteen heads.
#[derive(Clone, Copy)]
struct Passing<'p> {
    first: usize,
    /// Step sizes, (tokens, heads).
    dt: &'p [f32],
    /// Decays, (tokens, heads).
    decay: &'p [f32],
    /// How many heads.
    heads: usize,
    /// Of a lone token, bytes from its stream's state to that of the stream to come; 0 if nothing is to be fetched.
    behind_bytes: usize,
}

/// One head on its way through the tokens.
struct Head<'a> {
    ssd: &'a Ssd<'a>,
    passing: Passing<'a>,
    /// Place among the heads of the step sizes.
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
pub(super) fn fits(ssd: &Ssd<'_>, y: &RowsMut<'_>) -> Option<[usize; 2]> {
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
    let (mut dt, mut decay) = ([0.0; NUMBERS], [0.0; NUMBERS]);
    for (some, states) in states.chunks_mut(TOKENS).enumerate() {
        let first = some * TOKENS;
        for first_head in (0..heads).step_by(LANES) {
            let count = LANES.min(heads - first_head);
            arrive_all(ssd, first_head, first..first + states.len(), &mut dt, &mut decay);
            let group = one_group(ssd, shape, first_head..first_head + count);
            for i in 0..states.len() {
                let (state, behind) = match &mut states[i..] {
                    [state, behind, ..] => (state, Some(&*behind)),
                    [state] => (state, None),
                    [] => break,
                };
                // Rows of frames are apart: no processor foresees the next one.
                for line in (0..ssd.x.width()).step_by(LANES) {
                    _mm_prefetch::<_MM_HINT_T0>(ssd.x.row(first + i + 1).as_ptr().wrapping_add(line).cast());
                }
                let behind_bytes = behind.map_or(0, |behind| distance(state, behind, ssd.a.len() * shape[0] * shape[1]));
                if let Some(group) = group.clone() {
                    let of_heads = i * count..(i + 1) * count;
                    let (dt, decay) = (&dt[of_heads.clone()], &decay[of_heads]);
                    let (b, c) = (&ssd.b.row(first + i)[group.clone()], &ssd.c.row(first + i)[group]);
                    if ssd_narrow::step(ssd, ssd_narrow::Token { t: first + i, head: first_head, dt, decay, b, c, behind_bytes }, state, y)
                    {
                        continue;
                    }
                }
                let passing = Passing { first: first + i, dt: &dt[i * count..], decay: &decay[i * count..], heads: count, behind_bytes };
                match state {
                    StateMut::F32(state) => lone(ssd, passing, shape, first_head, state, y),
                    StateMut::F16(state) => lone(ssd, passing, shape, first_head, state, y),
                }
            }
        }
    }
}

/// The numbers of b and c for some heads of sixteen channels; `None` if they are wider or narrower, or not all of one group.
fn one_group(ssd: &Ssd<'_>, [head_dim, d_state]: [usize; 2], heads: Range<usize>) -> Option<Range<usize>> {
    let group = |head: usize| (ssd.first_head + head) / ssd.heads_per_group.max(1);
    let at = group(heads.start) * d_state;
    (head_dim == LANES && group(heads.end - 1) == group(heads.start)).then_some(at..at + d_state)
}

/// Bytes from a stream's state to the next stream's, if they are so small that both are near; 0 otherwise.
fn distance(state: &StateMut<'_>, behind: &StateMut<'_>, numbers: usize) -> usize {
    match (state, behind) {
        (StateMut::F32(_), StateMut::F32(_)) if numbers <= NEAR => state.bytes_to(behind),
        _ => 0,
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
    let count = LANES.min(ssd.a.len() - first_head);
    let mut lane = 0;
    while lane < count {
        let head = Head::new(ssd, passing, shape, first_head, lane);
        // Heads of one register each that share b and c.
        let alike = if shape[0] == LANES { head.left_of_group(ssd.heads_per_group).min(count - lane) } else { 1 };
        lane += match alike {
            6.. => head.several::<6, T>(first_head + lane, state, y),
            4.. => head.several::<4, T>(first_head + lane, state, y),
            2.. => head.several::<2, T>(first_head + lane, state, y),
            _ => {
                head.lone(&mut state.row_mut(first_head + lane)[..shape[0] * shape[1]], y);
                1
            }
        };
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
            let dt = _mm512_add_ps(load_part(&ssd.dt.row(0)[first_head..]), load_part(&ssd.dt_bias[first_head..]));
            let ([dt], [decay]) = arrive(ssd, [dt], [load_part(&ssd.a[first_head..])]);
            let (dt, decay) = (to_array(dt), to_array(decay));
            let passing = Passing { first: 0, dt: &dt, decay: &decay, heads: LANES, behind_bytes: 0 };
            lone(ssd, passing, shape, first_head, &mut state, &mut y);
        }
        return;
    }
    let (mut dt, mut decay) = ([0.0; NUMBERS], [0.0; NUMBERS]);
    for first in (0..tokens).step_by(TOKENS) {
        let count = (tokens - first).min(TOKENS);
        for first_head in (0..heads).step_by(LANES) {
            let some = LANES.min(heads - first_head);
            arrive_all(ssd, first_head, first..first + count, &mut dt, &mut decay);
            let passing = Passing { first, dt: &dt[..count * some], decay: &decay[..count * some], heads: some, behind_bytes: 0 };
            for lane in 0..some {
                let state = &mut state.row_mut(first_head + lane)[..shape[0] * shape[1]];
                Head::new(ssd, passing, shape, first_head, lane).all(state, &mut y);
            }
        }
    }
}

/// Step sizes and decays from what comes before bounds, in any lanes, and the heads' rates.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn arrive<const K: usize>(ssd: &Ssd<'_>, dt: [__m512; K], a: [__m512; K]) -> ([__m512; K], [__m512; K]) {
    let (lowest, highest, gap) = (_mm512_set1_ps(ssd.dt_lo), _mm512_set1_ps(ssd.dt_hi), _mm512_set1_ps(ssd.gap));
    let dt = softplus(dt);
    // A NaN is in the second place, and stays.
    let dt = each!(i < K: _mm512_mul_ps(_mm512_min_ps(highest, _mm512_max_ps(lowest, dt[i])), gap));
    (dt, exp(each!(i < K: _mm512_mul_ps(dt[i], a[i]))))
}

/// [`arrive`] for up to sixteen heads from `head` at some tokens: (tokens, heads), without gaps, so that no lane stays empty.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn arrive_all(ssd: &Ssd<'_>, head: usize, tokens: Range<usize>, dt: &mut [f32; NUMBERS], decay: &mut [f32; NUMBERS]) {
    let (bias, a) = (load_part(&ssd.dt_bias[head..]), load_part(&ssd.a[head..]));
    let heads = LANES.min(ssd.a.len() - head);
    let count = tokens.len() * heads;
    for (i, t) in tokens.enumerate() {
        let lanes = _mm512_add_ps(load_part(&ssd.dt.row(t)[head..]), bias);
        // Behind the heads comes what the next token overwrites.
        lanes::store(dt[i * heads..].first_chunk_mut().unwrap_or(&mut [0.0; LANES]), lanes);
        lanes::store(decay[i * heads..].first_chunk_mut().unwrap_or(&mut [0.0; LANES]), a);
    }
    let several = dt.as_chunks_mut::<{ TOGETHER * LANES }>().0.iter_mut().zip(decay.as_chunks_mut::<{ TOGETHER * LANES }>().0);
    for (dt, decay) in several.take(count.div_ceil(TOGETHER * LANES)) {
        let (dt, decay) = (dt.as_chunks_mut().0, decay.as_chunks_mut().0);
        let (some_dt, some_decay) =
            arrive::<TOGETHER>(ssd, each!(i < TOGETHER: lanes::load(&dt[i])), each!(i < TOGETHER: lanes::load(&decay[i])));
        for i in 0..TOGETHER {
            lanes::store(&mut dt[i], some_dt[i]);
            lanes::store(&mut decay[i], some_decay[i]);
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
        debug_assert!(state.len() >= self.head_dim * self.d_state && self.head_dim >= at + if FULL { C * LANES } else { 1 });
        let mask = lanes::mask(self.head_dim - at);
        let first = state.as_mut_ptr();
        // SAFETY: the state has `d_state` rows of `head_dim`, with `C` whole registers left of each, or a part of one.
        let sum = unsafe {
            let places = core::array::from_fn(|i| first.wrapping_add(at + i * LANES));
            self.pass_lone::<C, FULL, false, T>(places, mask, self.x::<C, FULL>(self.passing.first, at), [self.lane; C])
        };
        self.leave::<C, FULL>(self.passing.first, at, sum, y);
        C * LANES
    }

    /// How many heads from this one on share its b and c.
    fn left_of_group(&self, heads_per_group: usize) -> usize {
        let heads_per_group = heads_per_group.max(1);
        heads_per_group - (self.ssd.first_head + self.channel / self.head_dim) % heads_per_group
    }

    /// One token through `H` heads of sixteen channels from this one, number `head`, that share b and c. Returns `H`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn several<const H: usize, T: Cell>(&self, head: usize, state: &mut RowsMut<'_, T>, y: &mut RowsMut<'_>) -> usize {
        let mut places = [core::ptr::null_mut(); H];
        let mut lanes = [0; H];
        for i in 0..H {
            places[i] = state.row_mut(head + i)[..self.head_dim * self.d_state].as_mut_ptr();
            lanes[i] = self.lane + i;
        }
        let t = self.passing.first;
        let x = &self.ssd.x.row(t)[self.channel..self.channel + H * LANES];
        let mut all = [_mm512_setzero_ps(); H];
        for (all, x) in all.iter_mut().zip(x.as_chunks().0) {
            *all = lanes::load(x);
        }
        // SAFETY: each state has `d_state` rows of sixteen numbers.
        let sum = unsafe {
            if self.passing.behind_bytes == 0 {
                self.pass_lone::<H, true, false, T>(places, 0, all, lanes)
            } else {
                self.pass_lone::<H, true, true, T>(places, 0, all, lanes)
            }
        };
        let (y, d) = (&mut y.row_mut(t)[self.channel..self.channel + H * LANES], &self.ssd.d[head..head + H]);
        for i in 0..H {
            lanes::store(&mut y.as_chunks_mut().0[i], _mm512_add_ps(sum[i], _mm512_mul_ps(_mm512_set1_ps(d[i]), all[i])));
        }
        H
    }

    /// One token with inputs `x` through registers of all rows, whose first ones lie at `places`; the step size and the decay of each are those of a
    /// lane. Returns the sums.
    ///
    /// # Safety
    /// There are `d_state` rows, `head_dim` numbers apart, with a register, or the part that the mask says, at every place. Only for functions
    /// with AVX-512F and the others: this one has no features, so that the compiler can be made to inline it.
    #[inline(always)]
    unsafe fn pass_lone<const C: usize, const FULL: bool, const AHEAD: bool, T: Cell>(
        &self,
        places: [*mut T; C],
        mask: __mmask16,
        x: [__m512; C],
        lanes: [usize; C],
    ) -> [__m512; C] {
        let t = self.passing.first;
        // SAFETY: a group has `d_state` numbers; the rest is the caller's promise.
        unsafe {
            let of_group = |row| core::slice::from_raw_parts(self.of_group(row, 0), self.d_state);
            let (b, c) = (of_group(self.ssd.b.row(t)), of_group(self.ssd.c.row(t)));
            let decay = each!(i < C: _mm512_set1_ps(self.passing.decay[lanes[i]]));
            let dx = each!(i < C: _mm512_mul_ps(_mm512_set1_ps(self.passing.dt[lanes[i]]), x[i]));
            let mut sum = [_mm512_setzero_ps(); C];
            for n in 0..self.d_state {
                let (b, c) = (_mm512_set1_ps(*b.get_unchecked(n)), _mm512_set1_ps(*c.get_unchecked(n)));
                for i in 0..C {
                    let place = places[i].wrapping_add(n * self.head_dim);
                    if AHEAD {
                        _mm_prefetch::<_MM_HINT_T0>(place.cast::<i8>().wrapping_add(self.passing.behind_bytes));
                    }
                    let kept = _mm512_mul_ps(decay[i], T::load::<FULL>(place, mask));
                    let s = _mm512_add_ps(kept, _mm512_mul_ps(dx[i], b));
                    T::store::<FULL>(place, mask, s);
                    sum[i] = _mm512_add_ps(sum[i], _mm512_mul_ps(c, s));
                }
            }
            sum
        }
    }

    /// All tokens through the columns from `at`, `R` rows at a time. Returns how many columns.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn some<const C: usize, const R: usize, const FULL: bool, T: Cell>(&self, at: usize, state: &mut [T], y: &mut RowsMut<'_>) -> usize {
        let mut sums = [[_mm512_setzero_ps(); C]; TOKENS];
        // Every block of rows takes the same inputs.
        let mut dx = [[_mm512_setzero_ps(); C]; TOKENS];
        for (i, dx) in dx.iter_mut().enumerate().take(self.passing.dt.len() / self.passing.heads) {
            let dt = _mm512_set1_ps(self.passing.dt[i * self.passing.heads + self.lane]);
            let x = self.x::<C, FULL>(self.passing.first + i, at);
            *dx = each!(c < C: _mm512_mul_ps(dt, x[c]));
        }
        let mut blocks = state.chunks_exact_mut(R * self.head_dim);
        let mut n = 0;
        for rows in &mut blocks {
            self.pass::<C, R, FULL, T>(n, at, rows, &dx, &mut sums);
            n += R;
        }
        for row in blocks.into_remainder().chunks_exact_mut(self.head_dim) {
            self.pass::<C, 1, FULL, T>(n, at, row, &dx, &mut sums);
            n += 1;
        }
        for i in 0..self.passing.dt.len() / self.passing.heads {
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
        dx: &[[__m512; C]; TOKENS],
        sums: &mut [[__m512; C]; TOKENS],
    ) {
        let mask = lanes::mask(self.head_dim - at);
        debug_assert!(rows.len() == R * self.head_dim);
        let mut s = [[_mm512_setzero_ps(); C]; R];
        for r in 0..R {
            for c in 0..C {
                // SAFETY: there are `R` rows, and `C` whole registers left of each, or a part of one.
                s[r][c] = unsafe { T::load::<FULL>(rows.as_ptr().add(r * self.head_dim + at + c * LANES), mask) };
                // While all tokens pass, memory has time for the next rows.
                _mm_prefetch::<_MM_HINT_T0>(rows.as_ptr().wrapping_add((R + r) * self.head_dim + at + c * LANES).cast());
            }
        }
        let (b, c) = (self.of_group(self.ssd.b.row(self.passing.first), n), self.of_group(self.ssd.c.row(self.passing.first), n));
        let (b_stride, c_stride) = (self.ssd.b.stride(), self.ssd.c.stride());
        let decays = self.passing.decay.chunks_exact(self.passing.heads);
        for (i, ((decay, &dx), sums)) in decays.zip(dx).zip(sums).enumerate() {
            let mut sum = *sums;
            let decay = _mm512_set1_ps(decay[self.lane]);
            let (b, c) = (b.wrapping_add(i * b_stride), c.wrapping_add(i * c_stride));
            for r in 0..R {
                // SAFETY: there are so many tokens, and the group has these `R` numbers, as there are as many rows.
                let (b, c) = unsafe { (_mm512_set1_ps(*b.add(r)), _mm512_set1_ps(*c.add(r))) };
                for i in 0..C {
                    s[r][i] = _mm512_add_ps(_mm512_mul_ps(decay, s[r][i]), _mm512_mul_ps(dx[i], b));
                    sum[i] = _mm512_add_ps(sum[i], _mm512_mul_ps(c, s[r][i]));
                    // SAFETY: the features are there.
                    s[r][i] = unsafe { T::found(s[r][i]) };
                }
            }
            *sums = sum;
        }
        for r in 0..R {
            for c in 0..C {
                // SAFETY: as for the loads.
                unsafe { T::store::<FULL>(rows.as_mut_ptr().add(r * self.head_dim + at + c * LANES), mask, s[r][c]) };
            }
        }
    }
}
