//! One token of the selective scan: a state is read, stepped and stored at once, so that the registers are free for as many
//! exponentials as the processor can have on their way.

use super::act::{each, exp_inside, silu, softplus};
use super::lanes::{LANES, mask};
use super::stored::Cell;
use crate::rows::RowsMut;
use crate::table::Scan;
use core::arch::x86_64::*;
use core::ops::Range;

/// Exponentials that are taken together.
const TOGETHER: usize = 8;
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

/// Some channels of a head on their way through the states.
struct Channels {
    /// The first of them.
    at: usize,
    mask: __mmask16,
    /// Step sizes.
    dt: __m512,
    /// Step sizes times inputs.
    dx: __m512,
    /// Sum over the states so far.
    sum: __m512,
}

/// Takes token `t` through the `channels` of a head.
///
/// # Safety
/// Every operand has the token and these channels, b and c the head's states, and so many rows have a and `h`.
#[inline]
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
        // SAFETY: there are as many registers of channels, or a part of one; the rest is the caller's promise.
        at += unsafe {
            match left / LANES {
                8.. => token.pass::<8, true, T>(at, left, h, y),
                4.. => token.pass::<4, true, T>(at, left, h, y),
                1.. => token.pass::<1, true, T>(at, left, h, y),
                0 => token.pass::<1, false, T>(at, left, h, y),
            }
        };
    }
}

impl Token<'_> {
    /// Takes the token through `C` registers of channels from `at`, or a part of one. Returns how many channels that are at most.
    ///
    /// # Safety
    /// As for [`step`], with `C` whole registers of channels, or without `FULL` `left` channels.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn pass<const C: usize, const FULL: bool, T: Cell>(
        &self,
        at: usize,
        left: usize,
        h: &mut RowsMut<'_, T>,
        y: &mut RowsMut<'_>,
    ) -> usize {
        let (scan, mask) = (self.scan, mask(left));
        // SAFETY: every operand has these channels.
        let load = |x: &[f32], i: usize| unsafe { f32::load::<FULL>(x.as_ptr().add(at + i * LANES), mask) };
        let (x, dt, y) = (scan.x.row(self.t), scan.dt.row(self.t), y.row_mut(self.t));
        let gap = _mm512_set1_ps(scan.gap);
        let dt = softplus(each!(i < C: _mm512_add_ps(load(dt, i), load(scan.dt_bias, i))));
        let dt = each!(i < C: _mm512_mul_ps(dt[i], gap));
        let dx = each!(i < C: _mm512_mul_ps(dt[i], load(x, i)));
        let mut out = [_mm512_setzero_ps(); C];
        for i in 0..C {
            let mut channels = Channels { at: at + i * LANES, mask, dt: dt[i], dx: dx[i], sum: _mm512_setzero_ps() };
            // SAFETY: the caller's promise.
            unsafe { self.all_states::<FULL, T>(&mut channels, h) };
            out[i] = _mm512_add_ps(channels.sum, _mm512_mul_ps(load(scan.d, i), load(x, i)));
        }
        if let Some(z) = scan.z {
            let share = silu(each!(i < C: load(z.row(self.t), i)));
            out = each!(i < C: _mm512_mul_ps(out[i], share[i]));
        }
        for i in 0..C {
            // SAFETY: as for the loads.
            unsafe { f32::store::<FULL>(y.as_mut_ptr().add(at + i * LANES), mask, out[i]) };
        }
        C * LANES
    }

    /// Takes some channels through all states.
    ///
    /// # Safety
    /// As for [`step`], with one whole register of channels, or the part that the mask says.
    #[inline(never)]
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
        let Channels { at, mask, dt, dx, mut sum } = *channels;
        let (a, a_stride, h_stride) = (self.scan.a.row(n).as_ptr(), self.scan.a.stride(), h.stride());
        if h.rows() * h.width() >= FAR {
            for i in 0..K {
                // Rows are far apart: no processor follows so many at once by itself.
                _mm_prefetch::<_MM_HINT_T0>(a.wrapping_add(i * a_stride + at + AHEAD).cast());
                _mm_prefetch::<_MM_HINT_T0>(h.row(n).as_ptr().wrapping_add(i * h_stride + at + AHEAD).cast());
            }
        }
        let h = h.row_mut(n).as_mut_ptr();
        // SAFETY: the rows from `n` on are there, and so are the channels.
        unsafe {
            let decay = exp_inside(each!(i < K: _mm512_mul_ps(dt, f32::load::<FULL>(a.add(i * a_stride + at), mask))));
            for i in 0..K {
                let place = h.add(i * h_stride + at);
                let (b, c) = (_mm512_set1_ps(*self.b.get_unchecked(n + i)), _mm512_set1_ps(*self.c.get_unchecked(n + i)));
                let state = _mm512_add_ps(_mm512_mul_ps(decay[i], T::load::<FULL>(place, mask)), _mm512_mul_ps(dx, b));
                T::store::<FULL>(place, mask, state);
                sum = _mm512_add_ps(sum, _mm512_mul_ps(c, state));
            }
        }
        channels.sum = sum;
        K
    }
}
