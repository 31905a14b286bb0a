//! The selective scan: the state of sixteen channels stays in registers while a few tokens pass. One exponential per channel, state
//! and token is most of its work.

use super::act::{exps, silu, softplus};
use super::lanes::{LANES, mask};
use crate::portable;
use crate::rows::RowsMut;
use crate::table::Scan;
use core::arch::x86_64::*;

/// Tokens that pass before the state goes back to memory.
const TOKENS: usize = 16;

/// Sixteen channels of one head.
#[derive(Clone, Copy)]
struct Channels {
    at: usize,
    mask: __mmask16,
    head: usize,
}

/// What a few tokens bring for sixteen channels, and what they take away.
struct Passing {
    first: usize,
    count: usize,
    /// Step sizes.
    dt: [__m512; TOKENS],
    /// Step sizes times inputs.
    dx: [__m512; TOKENS],
    /// Sums over the states so far.
    sums: [__m512; TOKENS],
}

/// See [`portable::scan`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn scan(scan: &Scan<'_>, mut h: RowsMut<'_>, mut y: RowsMut<'_>) {
    let (tokens, channels) = (scan.x.rows(), scan.x.width());
    let heads = scan.heads.max(1);
    let d_state = scan.b.width() / heads;
    let whole = |rows: usize, width: usize, rows_wanted: usize| rows >= rows_wanted && width >= channels;
    let fits = scan.dt_bias.len() >= channels
        && scan.d.len() >= channels
        && whole(scan.dt.rows(), scan.dt.width(), tokens)
        && whole(y.rows(), y.width(), tokens)
        && scan.z.is_none_or(|z| whole(z.rows(), z.width(), tokens))
        && whole(scan.a.rows(), scan.a.width(), d_state)
        && whole(h.rows(), h.width(), d_state);
    if !fits || scan.b.rows() < tokens || scan.c.rows() < tokens || scan.c.width() < heads * d_state {
        return portable::scan(scan, h, y);
    }
    let per_head = channels / heads;
    for head in 0..heads {
        let end = (head + 1) * per_head;
        for at in (head * per_head..end).step_by(LANES) {
            let channels = Channels { at, mask: mask(end - at), head };
            for first in (0..tokens).step_by(TOKENS) {
                let none = [_mm512_setzero_ps(); TOKENS];
                let mut passing = Passing { first, count: (tokens - first).min(TOKENS), dt: none, dx: none, sums: none };
                arrive(scan, channels, &mut passing);
                let mut n = 0;
                while n < d_state {
                    n += match d_state - n {
                        16.. => pass::<16, 8>(scan, channels, n, &mut passing, &mut h),
                        8.. => pass::<8, 4>(scan, channels, n, &mut passing, &mut h),
                        4.. => pass::<4, 4>(scan, channels, n, &mut passing, &mut h),
                        _ => pass::<1, 1>(scan, channels, n, &mut passing, &mut h),
                    };
                }
                leave(scan, channels, &passing, &mut y);
            }
        }
    }
}

impl Channels {
    /// These channels of a vector of all.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(self, x: &[f32]) -> __m512 {
        debug_assert!(x.len() >= self.at + (16 - self.mask.leading_zeros() as usize));
        // SAFETY: the mask lets channels below the last head's end through, and every vector was seen to hold as many.
        unsafe { _mm512_maskz_loadu_ps(self.mask, x.as_ptr().add(self.at)) }
    }

    /// The reverse of [`Channels::load`].
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store(self, x: &mut [f32], lanes: __m512) {
        debug_assert!(x.len() >= self.at + (16 - self.mask.leading_zeros() as usize));
        // SAFETY: as for the loads.
        unsafe { _mm512_mask_storeu_ps(x.as_mut_ptr().add(self.at), self.mask, lanes) }
    }
}

/// Step sizes and inputs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn arrive(scan: &Scan<'_>, channels: Channels, passing: &mut Passing) {
    let (bias, gap) = (channels.load(scan.dt_bias), _mm512_set1_ps(scan.gap));
    for i in 0..passing.count {
        let t = passing.first + i;
        let dt = _mm512_add_ps(channels.load(scan.dt.row(t)), bias);
        passing.dt[i] = _mm512_mul_ps(softplus(dt), gap);
        passing.dx[i] = _mm512_mul_ps(passing.dt[i], channels.load(scan.x.row(t)));
    }
}

/// Takes the tokens through states `n` to `n + N - 1`. Returns `N`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn pass<const N: usize, const K: usize>(
    scan: &Scan<'_>,
    channels: Channels,
    n: usize,
    passing: &mut Passing,
    h: &mut RowsMut<'_>,
) -> usize {
    let mut a = [_mm512_setzero_ps(); N];
    let mut state = [_mm512_setzero_ps(); N];
    for i in 0..N {
        a[i] = channels.load(scan.a.row(n + i));
        state[i] = channels.load(h.row(n + i));
    }
    let d_state = scan.b.width() / scan.heads.max(1);
    let at = channels.head * d_state + n;
    for i in 0..passing.count {
        let t = passing.first + i;
        debug_assert!(scan.b.row(t).len() >= at + N && scan.c.row(t).len() >= at + N);
        // SAFETY: rows of b and c were seen to hold `heads * d_state` numbers.
        let (b, c) = unsafe { (scan.b.row(t).as_ptr().add(at), scan.c.row(t).as_ptr().add(at)) };
        let (dt, dx, mut sum) = (passing.dt[i], passing.dx[i], passing.sums[i]);
        for (group, (a, state)) in a.as_chunks::<K>().0.iter().zip(state.as_chunks_mut::<K>().0).enumerate() {
            let mut decay = *a;
            for decay in &mut decay {
                *decay = _mm512_mul_ps(dt, *decay);
            }
            decay = exps(decay);
            for n in 0..K {
                // SAFETY: the head has these `N` numbers.
                let (b, c) = unsafe { (_mm512_set1_ps(*b.add(group * K + n)), _mm512_set1_ps(*c.add(group * K + n))) };
                state[n] = _mm512_add_ps(_mm512_mul_ps(decay[n], state[n]), _mm512_mul_ps(dx, b));
                sum = _mm512_add_ps(sum, _mm512_mul_ps(c, state[n]));
            }
        }
        passing.sums[i] = sum;
    }
    for (i, state) in state.into_iter().enumerate() {
        channels.store(h.row_mut(n + i), state);
    }
    N
}

/// The skip and the gate.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn leave(scan: &Scan<'_>, channels: Channels, passing: &Passing, y: &mut RowsMut<'_>) {
    let d = channels.load(scan.d);
    for i in 0..passing.count {
        let t = passing.first + i;
        let mut sum = _mm512_add_ps(passing.sums[i], _mm512_mul_ps(d, channels.load(scan.x.row(t))));
        if let Some(z) = scan.z {
            sum = _mm512_mul_ps(sum, silu(channels.load(z.row(t))));
        }
        channels.store(y.row_mut(t), sum);
    }
}
