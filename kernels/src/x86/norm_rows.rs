//! Norms of several rows side by side: a row alone would wait for its sum, its root and its division.

use super::act::{each, silu};
use super::lanes::{LANES, load_part, quarters, store_part};
use crate::rows::{Rows, RowsMut};
use crate::table::{Norm, NormKind};
use core::arch::x86_64::*;

/// Rows side by side.
const ROWS: usize = 4;

/// Some rows on their way; behind the last the last again: nothing of a row is read after a part of it was written.
struct Block<'a, 'b> {
    rows: [usize; ROWS],
    x: Option<Rows<'a>>,
    gate: Option<Rows<'a>>,
    out: &'b mut RowsMut<'a>,
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
        let rows = core::array::from_fn(|i| (first + i).min(rows - 1));
        Block { rows, x, gate, out: &mut out.reborrow() }.norm(norm);
    }
    true
}

impl Block<'_, '_> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn norm(&mut self, norm: &Norm<'_>) {
        let width = self.out.width();
        let mut squares = [_mm512_setzero_ps(); ROWS];
        for at in (0..width).step_by(LANES) {
            let mut x = match self.x {
                Some(x) => each!(i < ROWS: load_part(&x.row(self.rows[i])[at..])),
                None => each!(i < ROWS: load_part(&self.out.row(self.rows[i])[at..])),
            };
            if let Some(gate) = self.gate {
                let share = silu(each!(i < ROWS: load_part(&gate.row(self.rows[i])[at..])));
                x = each!(i < ROWS: _mm512_mul_ps(x[i], share[i]));
            }
            // A lane that a row ends before adds a zero, which changes no sum that began at zero.
            squares = each!(i < ROWS: _mm512_add_ps(squares[i], _mm512_mul_ps(x[i], x[i])));
            for i in 0..ROWS {
                store_part(&mut self.out.row_mut(self.rows[i])[at..], x[i]);
            }
        }
        // Four lanes a row: what is left of the tree, each sum in two lanes, then in four.
        let sums = quarters(squares);
        let sums = _mm512_add_ps(sums, _mm512_permute_ps::<0b01_00_11_10>(sums));
        let sums = _mm512_add_ps(sums, _mm512_permute_ps::<0b10_11_00_01>(sums));
        let mean_square = _mm512_div_ps(sums, _mm512_set1_ps(width as f32));
        let root = _mm512_sqrt_ps(_mm512_add_ps(mean_square, _mm512_set1_ps(norm.eps)));
        let all = _mm512_div_ps(_mm512_set1_ps(1.0), root);
        let inverse = [
            _mm512_shuffle_f32x4::<0b00_00_00_00>(all, all),
            _mm512_shuffle_f32x4::<0b01_01_01_01>(all, all),
            _mm512_shuffle_f32x4::<0b10_10_10_10>(all, all),
            _mm512_shuffle_f32x4::<0b11_11_11_11>(all, all),
        ];
        for at in (0..width).step_by(LANES) {
            let mut x = each!(i < ROWS: _mm512_mul_ps(load_part(&self.out.row(self.rows[i])[at..]), inverse[i]));
            if let Some(weight) = norm.weight {
                let weight = load_part(&weight[at..width]);
                x = each!(i < ROWS: _mm512_mul_ps(x[i], weight));
            }
            for i in 0..ROWS {
                store_part(&mut self.out.row_mut(self.rows[i])[at..], x[i]);
            }
        }
    }
}
