//! One token of the selective scan: a state is read, stepped and stored at once, so that the registers are free for as many
//! exponentials as the processor can have on their way. Step sizes before and gates behind are taken for many channels in a row: each is
//! a long chain of steps, and those of the next channels fill the gaps.

use super::act::{are_short, decays, each, exp, exp_inside, softplus_of};
use super::lanes::{self, LANES, mask};
use super::stored::Cell;
use crate::rows::RowsMut;
use crate::table::Scan;
use core::arch::x86_64::*;
use core::mem::MaybeUninit;
use core::ops::Range;

/// Exponentials that are taken together.
const TOGETHER: usize = 8;
/// Registers of channels whose step sizes, or gates, are taken together.
const SOME: usize = 4;
/// A half of a step size or a gate is its exponential: those of so many registers.
const EXPS: usize = 8;
/// Registers of channels that go through the states after each other.
const PART: usize = 32;
/// Channels from those at hand to those that memory is asked for.
const AHEAD: usize = 8 * LANES;
/// Numbers of a layer's state from which it is likely to come from memory, or a far cache.
const FAR: usize = 1 << 14;

/// A token at a head.
struct Token<'a> {
    scan: &'a Scan<'a>,
    t: usize,
    /// (d_state)
    b: &'a [f32],
    /// (d_state)
    c: &'a [f32],
}

/// Sixteen channels of a head, or the part that the mask says, on their way through the states.
struct Channels {
    /// The first of them.
    at: usize,
    mask: __mmask16,
    /// Step sizes times -1.
    minus_dt: __m512,
    /// Step sizes times inputs.
    dx: __m512,
    /// Sum over the states so far.
    sum: __m512,
}

/// Takes token `t` through the `channels` of a head.
///
/// # Safety
/// Every operand has the token and these channels, b and c the head's states, and so many rows have a and `h`.
#[inline(never)] // Inside its caller it costs many tokens 3 % of their time: the compiler runs out of registers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn step<T: Cell>(
    scan: &Scan<'_>,
    t: usize,
    head: usize,
    channels: Range<usize>,
    h: &mut RowsMut<'_, T>,
    y: &mut RowsMut<'_>,
) {
    let d_state = scan.b.width() / scan.heads.max(1);
    let states = head * d_state..(head + 1) * d_state;
    let token = Token { scan, t, b: &scan.b.row(t)[states.clone()], c: &scan.c.row(t)[states] };
    let mut at = channels.start;
    while at < channels.end {
        let left = channels.end - at;
        let count = (left / LANES).min(PART);
        // SAFETY: there are as many registers of channels, or a part of one; the rest is the caller's promise.
        unsafe {
            if count > 0 {
                token.pass::<true, T>(at, count, left, h, y);
            } else {
                token.pass::<false, T>(at, 1, left, h, y);
            }
        }
        at += count.max(1) * LANES;
    }
}

impl Token<'_> {
    /// Takes the token through `count` registers of channels from `at`, at most [`PART`], or a part of one.
    ///
    /// # Safety
    /// As for [`step`], with `count` whole registers of channels, or without `FULL` `left` channels.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn pass<const FULL: bool, T: Cell>(&self, at: usize, count: usize, left: usize, h: &mut RowsMut<'_, T>, y: &mut RowsMut<'_>) {
        let (scan, mask) = (self.scan, mask(left));
        // SAFETY: every operand has these channels.
        let load = |x: &[f32], i: usize| unsafe { f32::load::<FULL>(x.as_ptr().add(at + i * LANES), mask) };
        // SAFETY: as for the loads.
        let store = |y: &mut [f32], i: usize, lanes| unsafe { f32::store::<FULL>(y.as_mut_ptr().add(at + i * LANES), mask, lanes) };
        let (x, dt, y) = (scan.x.row(self.t), scan.dt.row(self.t), y.row_mut(self.t));
        // Behind the last register the last again.
        let some = |first: usize| [0, 1, 2, 3, 4, 5, 6, 7].map(|i: usize| (first + i).min(count - 1));
        let gap = _mm512_set1_ps(scan.gap);
        // Registers behind the last are those of the last, and nobody reads them.
        let mut steps = [const { [MaybeUninit::<[f32; LANES]>::uninit(); EXPS] }; PART / EXPS];
        for (block, steps) in steps.iter_mut().enumerate().take(count.div_ceil(EXPS)) {
            let some = some(block * EXPS);
            let sums = each!(i < EXPS: _mm512_add_ps(load(dt, some[i]), load(scan.dt_bias, some[i])));
            let exps = exp(sums);
            for half in 0..EXPS / SOME {
                let at = half * SOME;
                let sizes = softplus_of(each!(i < SOME: sums[at + i]), each!(i < SOME: exps[at + i]));
                for i in 0..SOME {
                    lanes::store(steps[at + i].write([0.0; LANES]), _mm512_mul_ps(sizes[i], gap));
                }
            }
        }
        for (i, dt) in steps.as_flattened().iter().enumerate().take(count) {
            // SAFETY: the loop above wrote as many.
            let dt = lanes::load(unsafe { dt.assume_init_ref() });
            let minus_dt = _mm512_xor_ps(dt, _mm512_set1_ps(-0.0));
            let dx = _mm512_mul_ps(dt, load(x, i));
            let mut channels = Channels { at: at + i * LANES, mask, minus_dt, dx, sum: _mm512_setzero_ps() };
            // SAFETY: the caller's promise.
            unsafe { self.all_states::<FULL, T>(&mut channels, h) };
            store(y, i, channels.sum);
        }
        for first in (0..count).step_by(EXPS) {
            let some = some(first);
            let mut out = each!(i < EXPS: _mm512_add_ps(load(y, some[i]), _mm512_mul_ps(load(scan.d, some[i]), load(x, some[i]))));
            if let Some(z) = scan.z {
                let z = z.row(self.t);
                let exps = exp(each!(i < EXPS: _mm512_xor_ps(load(z, some[i]), _mm512_set1_ps(-0.0))));
                for i in 0..EXPS {
                    let share = _mm512_div_ps(load(z, some[i]), _mm512_add_ps(_mm512_set1_ps(1.0), exps[i]));
                    out[i] = _mm512_mul_ps(out[i], share);
                }
            }
            for i in 0..EXPS {
                store(y, some[i], out[i]);
            }
        }
    }

    /// Takes some channels through all states.
    ///
    /// # Safety
    /// As for [`step`], with one whole register of channels, or the part that the mask says.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn all_states<const FULL: bool, T: Cell>(&self, channels: &mut Channels, h: &mut RowsMut<'_, T>) {
        let mut n = 0;
        while n < self.b.len() {
            // SAFETY: there are as many states left; the rest is the caller's promise.
            n += unsafe {
                match self.b.len() - n {
                    TOGETHER.. => self.states::<TOGETHER, FULL, T>(n, channels, h),
                    4.. => self.states::<4, FULL, T>(n, channels, h),
                    _ => self.states::<1, FULL, T>(n, channels, h),
                }
            };
        }
    }

    /// Takes some channels through states `n` to `n + K - 1`. Returns `K`.
    ///
    /// # Safety
    /// As for [`step`], with so many states and one whole register of channels, or the part that the mask says.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn states<const K: usize, const FULL: bool, T: Cell>(&self, n: usize, channels: &mut Channels, h: &mut RowsMut<'_, T>) -> usize {
        let (at, mask, minus_dt) = (channels.at, channels.mask, channels.minus_dt);
        let (a, a_stride, h_stride) = (self.scan.a.row(n).as_ptr(), self.scan.a.stride(), h.stride());
        // Of the whole layer: other threads may have the other channels.
        if h.rows() * h_stride >= FAR {
            // Behind the last channels come the first of the next stream.
            let (ahead, bytes) = match (at + AHEAD).checked_sub(h.width()) {
                None => (at + AHEAD, 0),
                Some(next) => (next, self.scan.behind_bytes),
            };
            for i in 0..K {
                // Rows are far apart: no processor follows so many at once by itself.
                _mm_prefetch::<_MM_HINT_T0>(a.wrapping_add(i * a_stride + ahead).cast());
                _mm_prefetch::<_MM_HINT_T0>(h.row(n).as_ptr().wrapping_add(i * h_stride + ahead).wrapping_byte_add(bytes).cast());
            }
        }
        // SAFETY: the rows from `n` on are there, and so are the channels.
        unsafe {
            let lengths = each!(i < K: _mm512_mul_ps(minus_dt, f32::load::<FULL>(a.add(i * a_stride + at), mask)));
            if are_short(&lengths) {
                self.decay::<K, FULL, T>(n, decays(lengths), channels, h);
            } else {
                self.far_states::<K, FULL, T>(n, channels, h);
            }
        }
        K
    }

    /// [`Token::states`] of a model that ran away, or whose rates are not those of decays.
    ///
    /// # Safety
    /// As there.
    #[cold]
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn far_states<const K: usize, const FULL: bool, T: Cell>(&self, n: usize, channels: &mut Channels, h: &mut RowsMut<'_, T>) {
        let dt = _mm512_xor_ps(channels.minus_dt, _mm512_set1_ps(-0.0));
        let (a, stride) = (self.scan.a.row(n).as_ptr(), self.scan.a.stride());
        // SAFETY: the caller's promise.
        unsafe {
            let exps = exp_inside(each!(i < K: _mm512_mul_ps(dt, f32::load::<FULL>(a.add(i * stride + channels.at), channels.mask))));
            self.decay::<K, FULL, T>(n, exps, channels, h);
        }
    }

    /// Steps states `n` to `n + K - 1`, which decay so much.
    ///
    /// # Safety
    /// As for [`Token::states`].
    #[inline(always)]
    unsafe fn decay<const K: usize, const FULL: bool, T: Cell>(
        &self,
        n: usize,
        decay: [__m512; K],
        channels: &mut Channels,
        h: &mut RowsMut<'_, T>,
    ) {
        let Channels { at, mask, dx, mut sum, .. } = *channels;
        let stride = h.stride();
        let h = h.row_mut(n).as_mut_ptr();
        // SAFETY: the caller's promise.
        unsafe {
            for i in 0..K {
                let place = h.add(i * stride + at);
                let (b, c) = (_mm512_set1_ps(*self.b.get_unchecked(n + i)), _mm512_set1_ps(*self.c.get_unchecked(n + i)));
                let state = _mm512_add_ps(_mm512_mul_ps(decay[i], T::load::<FULL>(place, mask)), _mm512_mul_ps(dx, b));
                T::store::<FULL>(place, mask, state);
                sum = _mm512_add_ps(sum, _mm512_mul_ps(c, state));
            }
        }
        channels.sum = sum;
    }
}
