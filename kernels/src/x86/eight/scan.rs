//! The selective scan, sixteen channels at a time: a cache line of every row of the state. One exponential per channel and state is most of
//! its work, and those of a few states are computed together.

use super::act::{each, exp, silu, softplus};
use super::lanes::{PAIR, SIXTEEN, TOGETHER, map_with, sixteen, to_array};
use crate::portable::{self, stored::Stored};
use crate::rows::RowsMut;
use crate::state::StateMut;
use crate::table::Scan;
use crate::x86::{prefetch, stored::F16c};
use core::arch::x86_64::*;
use core::ops::Range;

/// Channels whose step sizes come before, and whose gates come behind, the walks of all.
const PART: usize = 128;
/// Channels from those at hand to those that memory is asked for.
const AHEAD: usize = 128;
/// States that are kept near while several tokens pass.
const STATES: usize = 64;

/// See [`portable::scan`].
#[target_feature(enable = "avx2,f16c")]
pub(in crate::x86) fn scan(scan: &Scan<'_>, h: StateMut<'_>, y: RowsMut<'_>) {
    with_rows!(h, F16c, |h, Stored| walk::<Stored>(scan, h, y));
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn walk<S: Stored>(scan: &Scan<'_>, mut h: RowsMut<'_, S::Cell>, mut y: RowsMut<'_>) {
    let (tokens, heads) = (scan.x.rows(), scan.heads.max(1));
    let (per_head, d_state) = (scan.x.width() / heads, scan.b.width() / heads);
    let has_rows = scan.dt.rows() >= tokens
        && scan.b.rows() >= tokens
        && scan.c.rows() >= tokens
        && scan.z.is_none_or(|z| z.rows() >= tokens)
        && y.rows() >= tokens
        && scan.a.rows() >= d_state
        && h.rows() >= d_state;
    for head in 0..heads {
        let (states, end) = (head * d_state..(head + 1) * d_state, (head + 1) * per_head);
        let mut at = head * per_head;
        while at < end {
            let count = if end - at < SIXTEEN { end - at } else { ((end - at) / SIXTEEN * SIXTEEN).min(PART) };
            let Some(part) = part(scan, states.clone(), at..at + count) else { return };
            let (Some(h), Some(mut y)) = (h.take_columns(count), y.take_columns(count)) else { return };
            if has_rows && count >= SIXTEEN {
                // SAFETY: there are whole registers of channels, and all rows.
                unsafe { pass::<S>(&part, h, &mut y) };
            } else {
                portable::scan::<S>(&part, h, y);
            }
            at += count;
        }
    }
}

/// Some channels of a head with these states; `None` if an operand does not have them.
fn part<'a>(scan: &Scan<'a>, states: Range<usize>, channels: Range<usize>) -> Option<Scan<'a>> {
    Some(Scan {
        x: scan.x.columns(channels.clone())?,
        dt: scan.dt.columns(channels.clone())?,
        dt_bias: scan.dt_bias.get(channels.clone())?,
        a: scan.a.columns(channels.clone())?,
        b: scan.b.columns(states.clone())?,
        c: scan.c.columns(states)?,
        d: scan.d.get(channels.clone())?,
        z: match scan.z {
            Some(z) => Some(z.columns(channels)?),
            None => None,
        },
        heads: 1,
        ..*scan
    })
}

/// Takes all tokens through the channels of `scan`, which has one head. Until the sums are there, `y` keeps the step sizes.
///
/// # Safety
/// The channels are a multiple of [`SIXTEEN`], every operand has them and as many rows as there are tokens, or states.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn pass<S: Stored>(scan: &Scan<'_>, mut h: RowsMut<'_, S::Cell>, y: &mut RowsMut<'_>) {
    let gap = _mm256_set1_ps(scan.gap);
    for t in 0..scan.x.rows() {
        let y = y.row_mut(t);
        for line in scan.x.row(t).as_chunks::<SIXTEEN>().0 {
            prefetch(line);
        }
        y.copy_from_slice(scan.dt.row(t));
        map_with(y, scan.dt_bias, |dt, bias| {
            let dt = softplus(each!(i < TOGETHER: _mm256_add_ps(dt[i], bias[i])));
            each!(i < TOGETHER: _mm256_mul_ps(dt[i], gap))
        });
    }
    // SAFETY: the caller's promise; and a few states have room near.
    unsafe {
        match scan.x.rows() > 1 && scan.b.width() <= STATES {
            true => near::<S>(scan, &mut h, y),
            false => far::<S>(scan, &mut h, y),
        }
    }
    for t in 0..scan.x.rows() {
        let (x, y) = (scan.x.row(t), y.row_mut(t));
        for ((y, x), d) in y.iter_mut().zip(x).zip(scan.d) {
            *y += d * x;
        }
        if let Some(z) = scan.z {
            map_with(y, z.row(t), |y, z| {
                let share = silu(z);
                each!(i < TOGETHER: _mm256_mul_ps(y[i], share[i]))
            });
        }
    }
}

/// Takes all tokens through the states, where they are.
///
/// # Safety
/// As for [`pass`].
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn far<S: Stored>(scan: &Scan<'_>, h: &mut RowsMut<'_, S::Cell>, y: &mut RowsMut<'_>) {
    for at in (0..scan.x.width()).step_by(SIXTEEN) {
        let walk = Walk::<S>::new(scan, h, at);
        for t in 0..scan.x.rows() {
            // SAFETY: the caller's promise.
            unsafe { walk.step::<true>(scan, t, at, y) };
        }
    }
}

/// The same, with copies of the rates and the state of sixteen channels while the tokens pass: rows of the whole are often so far apart that the
/// first-level cache has room for few of them.
///
/// # Safety
/// As for [`pass`], and there are no more states than [`STATES`].
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn near<S: Stored>(scan: &Scan<'_>, h: &mut RowsMut<'_, S::Cell>, y: &mut RowsMut<'_>) {
    let mut near_a = [[0.0f32; SIXTEEN]; STATES];
    let mut near_h = [[S::Cell::default(); SIXTEEN]; STATES];
    let d_state = scan.b.width();
    for at in (0..scan.x.width()).step_by(SIXTEEN) {
        let far = Walk::<S>::new(scan, h, at);
        // SAFETY: the caller's promise.
        unsafe {
            for n in 0..d_state {
                near_a[n] = *far.a.add(n * far.a_stride).cast::<[f32; SIXTEEN]>();
                near_h[n] = *far.h.add(n * far.h_stride).cast::<[S::Cell; SIXTEEN]>();
            }
            let walk = Walk::<S> {
                a: near_a.as_flattened().as_ptr(),
                a_stride: SIXTEEN,
                h: near_h.as_flattened_mut().as_mut_ptr(),
                h_stride: SIXTEEN,
            };
            for t in 0..scan.x.rows() {
                walk.step::<false>(scan, t, at, y);
            }
            for n in 0..d_state {
                *far.h.add(n * far.h_stride).cast::<[S::Cell; SIXTEEN]>() = near_h[n];
            }
        }
    }
}

/// Where sixteen channels find their rates and their state: rows of as many.
struct Walk<S: Stored> {
    a: *const f32,
    a_stride: usize,
    h: *mut S::Cell,
    h_stride: usize,
}

/// Sixteen channels at a token, on their way through the states.
struct Channels {
    /// Step sizes.
    dt: [__m256; PAIR],
    /// Step sizes times inputs.
    dx: [__m256; PAIR],
    /// Sums over the states so far.
    sum: [__m256; PAIR],
}

impl<S: Stored> Walk<S> {
    /// The channels from `at`.
    #[inline]
    fn new(scan: &Scan<'_>, h: &mut RowsMut<'_, S::Cell>, at: usize) -> Self {
        let (a_stride, h_stride) = (scan.a.stride(), h.stride());
        Walk { a: scan.a.row(0).as_ptr().wrapping_add(at), a_stride, h: h.row_mut(0).as_mut_ptr().wrapping_add(at), h_stride }
    }

    /// Takes token `t` through the states of the channels from `at`. `FAR` asks for what the channels to come need.
    ///
    /// # Safety
    /// Both `a` and `h` have a row of sixteen channels for each state.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn step<const FAR: bool>(&self, scan: &Scan<'_>, t: usize, at: usize, y: &mut RowsMut<'_>) {
        let (Some(x), Some(y)) = (scan.x.row(t)[at..].first_chunk(), y.row_mut(t)[at..].first_chunk_mut()) else { return };
        let (x, dt) = (sixteen(x), sixteen(y));
        let dx = each!(i < PAIR: _mm256_mul_ps(dt[i], x[i]));
        let mut channels = Channels { dt, dx, sum: [_mm256_setzero_ps(); PAIR] };
        let ((b_pairs, b_rest), (c_pairs, c_rest)) = (scan.b.row(t).as_chunks(), scan.c.row(t).as_chunks());
        let (mut a, mut h) = (self.a, self.h);
        for (b, c) in b_pairs.iter().zip(c_pairs) {
            // SAFETY: there are as many states.
            unsafe { self.states::<2, { 2 * PAIR }, FAR>(a, h, b, c, &mut channels) };
            (a, h) = (a.wrapping_add(2 * self.a_stride), h.wrapping_add(2 * self.h_stride));
        }
        if let ([b], [c]) = (b_rest, c_rest) {
            // SAFETY: as above.
            unsafe { self.states::<1, PAIR, FAR>(a, h, &[*b], &[*c], &mut channels) };
        }
        *y = to_array(channels.sum);
    }

    /// Takes the channels through the `N` states from `a` and `h` on; `K` are the registers of so many.
    ///
    /// # Safety
    /// There are as many rows of sixteen channels.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn states<const N: usize, const K: usize, const FAR: bool>(
        &self,
        a: *const f32,
        h: *mut S::Cell,
        b: &[f32; N],
        c: &[f32; N],
        channels: &mut Channels,
    ) {
        let Channels { dt, dx, mut sum } = *channels;
        let mut exponents = [_mm256_setzero_ps(); K];
        for i in 0..N {
            if FAR {
                // Rows are far apart: no processor follows so many at once by itself.
                _mm_prefetch::<_MM_HINT_T0>(a.wrapping_add(i * self.a_stride + AHEAD).cast());
                _mm_prefetch::<_MM_HINT_T0>(h.wrapping_add(i * self.h_stride + AHEAD).cast());
            }
            // SAFETY: the caller's promise.
            let a = sixteen(unsafe { &*a.add(i * self.a_stride).cast() });
            for r in 0..PAIR {
                exponents[i * PAIR + r] = _mm256_mul_ps(dt[r], a[r]);
            }
        }
        let decays = exp(exponents);
        for i in 0..N {
            let (b, c) = (_mm256_set1_ps(b[i]), _mm256_set1_ps(c[i]));
            // SAFETY: the caller's promise.
            let cells = unsafe { &mut *h.add(i * self.h_stride).cast() };
            let mut state = sixteen(&S::read(cells));
            for r in 0..PAIR {
                let kept = _mm256_mul_ps(decays[i * PAIR + r], state[r]);
                state[r] = _mm256_add_ps(kept, _mm256_mul_ps(dx[r], b));
                sum[r] = _mm256_add_ps(sum[r], _mm256_mul_ps(c, state[r]));
            }
            *cells = S::rounded(to_array(state));
        }
        channels.sum = sum;
    }
}
