//! Norms of several rows side by side: a row alone would wait for its sum, its root and its division.

use super::act::{each, silu};
use super::lanes::{LANES, mask, quarters};
use super::stored::Cell;
use crate::rows::{Rows, RowsMut};
use crate::table::{Norm, NormKind};
use core::arch::x86_64::*;

/// Rows side by side.
const ROWS: usize = 4;

/// Some rows on their way; behind the last the last again: nothing of a row is read after a part of it was written.
struct Block<'n> {
    norm: &'n Norm<'n>,
    width: usize,
    x: [*const f32; ROWS],
    gate: Option<[*const f32; ROWS]>,
    out: [*mut f32; ROWS],
}

/// Root-mean-square norms over whole rows with a gate before them, or none. Returns whether it is such a norm.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn norm_rows(norm: &Norm<'_>, x: Option<Rows<'_>>, gate: Option<Rows<'_>>, out: &mut RowsMut<'_>) -> bool {
    let (rows, width) = (out.rows(), out.width());
    let whole = |x: Rows<'_>| x.rows() >= rows && x.width() == width;
    let fits = norm.groups == 1
        && norm.kind == NormKind::Rms
        && norm.bias.is_none()
        && (gate.is_none() || norm.gate_first)
        && x.is_none_or(whole)
        && gate.is_none_or(whole)
        && norm.weight.is_none_or(|weight| weight.len() >= width);
    // Fewer than three rows take as long as four.
    if !fits || width == 0 || rows < 3 {
        return false;
    }
    for first in (0..rows).step_by(ROWS) {
        let rows: [usize; ROWS] = core::array::from_fn(|i| (first + i).min(rows - 1));
        let out = rows.map(|row| out.row_mut(row).as_mut_ptr());
        let block = Block {
            norm,
            width,
            x: x.map_or(out.map(|out| out.cast_const()), |x| rows.map(|row| x.row(row).as_ptr())),
            gate: gate.map(|gate| rows.map(|row| gate.row(row).as_ptr())),
            out,
        };
        block.norm();
    }
    true
}

/// Calls a method with the most registers of a row at once that are left behind `at`, a part of one at the end.
macro_rules! along {
    ($block:ident.$method:ident($($argument:expr),*)) => {
        let mut at = 0;
        while at < $block.width {
            at += match ($block.width - at) / LANES {
                2.. => $block.$method::<2, { 2 * ROWS }, true>(at, $($argument),*),
                1 => $block.$method::<1, ROWS, true>(at, $($argument),*),
                0 => $block.$method::<1, ROWS, false>(at, $($argument),*),
            };
        }
    };
}

impl Block<'_> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn norm(&self) {
        let mut squares = [_mm512_setzero_ps(); ROWS];
        along!(self.gated(&mut squares));
        // Four lanes a row: what is left of the tree, each sum in two lanes, then in four.
        let sums = quarters(squares);
        let sums = _mm512_add_ps(sums, _mm512_permute_ps::<0b01_00_11_10>(sums));
        let sums = _mm512_add_ps(sums, _mm512_permute_ps::<0b10_11_00_01>(sums));
        let mean_square = _mm512_div_ps(sums, _mm512_set1_ps(self.width as f32));
        let root = _mm512_sqrt_ps(_mm512_add_ps(mean_square, _mm512_set1_ps(self.norm.eps)));
        let all = _mm512_div_ps(_mm512_set1_ps(1.0), root);
        let inverse = [
            _mm512_shuffle_f32x4::<0b00_00_00_00>(all, all),
            _mm512_shuffle_f32x4::<0b01_01_01_01>(all, all),
            _mm512_shuffle_f32x4::<0b10_10_10_10>(all, all),
            _mm512_shuffle_f32x4::<0b11_11_11_11>(all, all),
        ];
        along!(self.scaled(&inverse));
    }

    /// `C` registers of each row from `at`, or a part of one, from input to output with their gate; adds their squares. Returns how many numbers of a
    /// row that are at most.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn gated<const C: usize, const N: usize, const FULL: bool>(&self, at: usize, squares: &mut [__m512; ROWS]) -> usize {
        let mask = mask(self.width - at);
        // SAFETY: all rows were seen to be so wide, and the mask lets nothing beyond that through.
        let load = |x: [*const f32; ROWS], i: usize| unsafe { f32::load::<FULL>(x[i % ROWS].add(at + i / ROWS * LANES), mask) };
        let mut x = each!(i < N: load(self.x, i));
        if let Some(gate) = self.gate {
            let share = silu(each!(i < N: load(gate, i)));
            x = each!(i < N: _mm512_mul_ps(x[i], share[i]));
        }
        for i in 0..N {
            // A lane that a row ends before adds a zero, which changes no sum that began at zero.
            squares[i % ROWS] = _mm512_add_ps(squares[i % ROWS], _mm512_mul_ps(x[i], x[i]));
            // SAFETY: as for the loads.
            unsafe { f32::store::<FULL>(self.out[i % ROWS].add(at + i / ROWS * LANES), mask, x[i]) };
        }
        C * LANES
    }

    /// The same registers of the output times the rows' factors and the weights.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn scaled<const C: usize, const N: usize, const FULL: bool>(&self, at: usize, inverse: &[__m512; ROWS]) -> usize {
        let mask = mask(self.width - at);
        // SAFETY: as above.
        let load = |x: *const f32, i: usize| unsafe { f32::load::<FULL>(x.add(at + i / ROWS * LANES), mask) };
        let mut x = each!(i < N: _mm512_mul_ps(load(self.out[i % ROWS], i), inverse[i % ROWS]));
        if let Some(weight) = self.norm.weight {
            x = each!(i < N: _mm512_mul_ps(x[i], load(weight.as_ptr(), i)));
        }
        for i in 0..N {
            // SAFETY: as above.
            unsafe { f32::store::<FULL>(self.out[i % ROWS].add(at + i / ROWS * LANES), mask, x[i]) };
        }
        C * LANES
    }
}
