//! The selective scan: the state of sixteen channels stays near while a few tokens pass ([`scan_one`] takes a lone one). One
//! exponential per channel, state and token is most of its work.

use super::act::{each, exp, silu, softplus};
use super::lanes::{LANES, TOGETHER, mask};
use super::scan_one;
use super::stored::Cell;
use crate::portable;
use crate::rows::RowsMut;
use crate::state::StateMut;
use crate::table::Scan;
use core::arch::x86_64::*;
use core::ops::Range;

/// Places of a block: many tokens at few channels, or few tokens at many.
const PLACES: usize = 16;

/// Sixteen channels, or fewer at a head's end, at one token.
#[derive(Clone, Copy)]
struct Place {
    token: usize,
    at: usize,
    mask: __mmask16,
}

/// What some tokens bring to some channels of a head, and what they take away. The tokens of the same channels stand together.
struct Block {
    head: usize,
    tokens: usize,
    /// How many places there are.
    count: usize,
    places: [Place; PLACES],
    /// Step sizes.
    dt: [__m512; PLACES],
    /// Step sizes times inputs.
    dx: [__m512; PLACES],
    /// Sums over the states so far.
    sums: [__m512; PLACES],
}

/// See [`portable::scan`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn scan(scan: &Scan<'_>, h: StateMut<'_>, y: RowsMut<'_>) {
    match h {
        StateMut::F32(h) => walk(scan, h, y),
        StateMut::F16(h) => walk(scan, h, y),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn walk<T: Cell>(scan: &Scan<'_>, mut h: RowsMut<'_, T>, mut y: RowsMut<'_>) {
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
        return portable::scan::<T::Portable>(scan, h, y);
    }
    let per_head = channels / heads;
    for head in 0..heads {
        let end = (head + 1) * per_head;
        for first in (0..tokens).step_by(PLACES) {
            let count = (tokens - first).min(PLACES);
            if count == 1 {
                // SAFETY: `fits`, and the rows of b and c, were seen to hold.
                unsafe { scan_one::step(scan, first, head, head * per_head..end, &mut h, &mut y) };
                continue;
            }
            for at in (head * per_head..end).step_by(PLACES / count * LANES) {
                let mut block = Block::new(head, first..first + count, at..end);
                block.arrive(scan);
                for channels in 0..block.count / count {
                    let mut n = 0;
                    while n < d_state {
                        n += match d_state - n {
                            16.. => block.pass::<16, 8, T>(scan, channels, n, &mut h),
                            8.. => block.pass::<8, 8, T>(scan, channels, n, &mut h),
                            4.. => block.pass::<4, 4, T>(scan, channels, n, &mut h),
                            _ => block.pass::<1, 1, T>(scan, channels, n, &mut h),
                        };
                    }
                }
                block.leave(scan, &mut y);
            }
        }
    }
}

impl Place {
    /// These channels of a vector of all.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn load<T: Cell>(self, x: &[T]) -> __m512 {
        debug_assert!(x.len() >= self.at + LANES - self.mask.leading_zeros() as usize);
        // SAFETY: the mask lets channels below the head's end through, and every vector was seen to hold as many.
        unsafe { T::load::<false>(x.as_ptr().add(self.at), self.mask) }
    }

    /// The reverse of [`Place::load`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn store<T: Cell>(self, x: &mut [T], lanes: __m512) {
        debug_assert!(x.len() >= self.at + LANES - self.mask.leading_zeros() as usize);
        // SAFETY: as for the loads.
        unsafe { T::store::<false>(x.as_mut_ptr().add(self.at), self.mask, lanes) }
    }
}

impl Block {
    /// The block of `tokens`, at most [`PLACES`], at the first of `channels`, as many as fit.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(head: usize, tokens: Range<usize>, channels: Range<usize>) -> Self {
        let none = [_mm512_setzero_ps(); PLACES];
        let nowhere = Place { token: 0, at: 0, mask: 0 };
        let mut block = Block { head, tokens: tokens.len(), count: 0, places: [nowhere; PLACES], dt: none, dx: none, sums: none };
        for at in channels.clone().step_by(LANES).take(PLACES / tokens.len()) {
            for token in tokens.clone() {
                block.places[block.count] = Place { token, at, mask: mask(channels.end - at) };
                block.count += 1;
            }
        }
        block
    }

    /// The numbers of a few places; behind the last, the last again: they are stored to the same place.
    #[inline]
    fn some(&self, first: usize) -> [usize; TOGETHER] {
        [0, 1, 2, 3].map(|i| (first + i).min(self.count - 1))
    }

    /// Step sizes and inputs.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn arrive(&mut self, scan: &Scan<'_>) {
        let gap = _mm512_set1_ps(scan.gap);
        for first in (0..self.count).step_by(TOGETHER) {
            let some = self.some(first);
            let dt = softplus(each!(i < TOGETHER: {
                let place = self.places[some[i]];
                _mm512_add_ps(place.load(scan.dt.row(place.token)), place.load(scan.dt_bias))
            }));
            for i in 0..TOGETHER {
                let place = self.places[some[i]];
                self.dt[some[i]] = _mm512_mul_ps(dt[i], gap);
                self.dx[some[i]] = _mm512_mul_ps(self.dt[some[i]], place.load(scan.x.row(place.token)));
            }
        }
    }

    /// Takes all tokens of the same `channels` through states `n` to `n + N - 1`, `K` exponentials at a time. Returns `N`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn pass<const N: usize, const K: usize, T: Cell>(
        &mut self,
        scan: &Scan<'_>,
        channels: usize,
        n: usize,
        h: &mut RowsMut<'_, T>,
    ) -> usize {
        let places = channels * self.tokens..(channels + 1) * self.tokens;
        let place = self.places[places.start];
        let mut a = [_mm512_setzero_ps(); N];
        let mut state = [_mm512_setzero_ps(); N];
        for i in 0..N {
            a[i] = place.load(scan.a.row(n + i));
            state[i] = place.load(h.row(n + i));
        }
        let at = self.head * (scan.b.width() / scan.heads.max(1)) + n;
        for i in places {
            let t = self.places[i].token;
            debug_assert!(scan.b.row(t).len() >= at + N && scan.c.row(t).len() >= at + N);
            // SAFETY: rows of b and c were seen to hold `heads * d_state` numbers.
            let (b, c) = unsafe { (scan.b.row(t).as_ptr().add(at), scan.c.row(t).as_ptr().add(at)) };
            let (dt, dx, mut sum) = (self.dt[i], self.dx[i], self.sums[i]);
            for (group, (a, state)) in a.as_chunks::<K>().0.iter().zip(state.as_chunks_mut::<K>().0).enumerate() {
                let decay = exp(each!(i < K: _mm512_mul_ps(dt, a[i])));
                for n in 0..K {
                    // SAFETY: the head has these `N` numbers.
                    let (b, c) = unsafe { (_mm512_set1_ps(*b.add(group * K + n)), _mm512_set1_ps(*c.add(group * K + n))) };
                    state[n] = _mm512_add_ps(_mm512_mul_ps(decay[n], state[n]), _mm512_mul_ps(dx, b));
                    sum = _mm512_add_ps(sum, _mm512_mul_ps(c, state[n]));
                    // SAFETY: the features are there.
                    state[n] = unsafe { T::found(state[n]) };
                }
            }
            self.sums[i] = sum;
        }
        for (i, state) in state.into_iter().enumerate() {
            place.store(h.row_mut(n + i), state);
        }
        N
    }

    /// The skip and the gate.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn leave(&self, scan: &Scan<'_>, y: &mut RowsMut<'_>) {
        for first in (0..self.count).step_by(TOGETHER) {
            let some = self.some(first);
            let places = some.map(|i| self.places[i]);
            let mut out = each!(i < TOGETHER: {
                let skip = _mm512_mul_ps(places[i].load(scan.d), places[i].load(scan.x.row(places[i].token)));
                _mm512_add_ps(self.sums[some[i]], skip)
            });
            if let Some(z) = scan.z {
                let share = silu(each!(i < TOGETHER: places[i].load(z.row(places[i].token))));
                out = each!(i < TOGETHER: _mm512_mul_ps(out[i], share[i]));
            }
            for (place, out) in places.into_iter().zip(out) {
                place.store(y.row_mut(place.token), out);
            }
        }
    }
}
