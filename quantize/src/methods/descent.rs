//! Coordinate descent: changes one code, or one factor, wherever that lowers the cost of the whole row.

use super::rtn::{FACTOR_MAX, Grid};
use ndarray::Array2;
use std::ops::Range;

/// Most sweeps over a row.
const SWEEPS: usize = 4;

/// A group's stored sub-scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sub {
    /// Signed factor of the row's scale.
    pub(super) factor: i32,
    /// Which of the two tables.
    pub(super) table: usize,
}

impl Sub {
    /// As the file has it.
    pub(super) fn stored(self) -> i8 {
        (self.factor << 1) as i8 | self.table as i8
    }
}

/// One row; all columns in the order of the metric.
pub(super) struct Descent<'r> {
    pub(super) grid: &'r Grid,
    /// (cols, cols)
    pub(super) hessian: &'r Array2<f32>,
    /// Original group, and its columns.
    pub(super) groups: &'r [(usize, Range<usize>)],
    pub(super) scale: f32,
    /// (cols): weights less what they are rounded to.
    pub(super) errors: &'r mut [f32],
    /// (cols): the errors times the metric.
    pub(super) slope: &'r mut [f32],
    /// (cols)
    pub(super) codes: &'r mut [u8],
    /// (groups)
    pub(super) subs: &'r mut [Sub],
}

impl Descent<'_> {
    pub(super) fn run(&mut self) {
        for _ in 0..SWEEPS {
            let mut changes = 0;
            for turn in 0..self.subs.len() {
                changes += self.change_codes(turn) + self.change_factor(turn);
            }
            if changes == 0 {
                return;
            }
        }
    }

    /// Gives each column of a group the level that is best while all others stay.
    fn change_codes(&mut self, turn: usize) -> usize {
        let Sub { factor, table } = self.subs[turn];
        let step = factor as f32 * self.scale;
        if step == 0.0 {
            return 0;
        }
        let mut changes = 0;
        for col in self.groups[turn].1.clone() {
            let now = self.grid.level(table, self.codes[col]) * step;
            let code = self.grid.code(table, (now + self.slope[col] / self.hessian[[col, col]]) / step);
            if code != self.codes[col] {
                let new = self.grid.level(table, code) * step;
                self.codes[col] = code;
                self.add(col, new - now);
                changes += 1;
            }
        }
        changes
    }

    /// Gives a group the factor that is best while all codes stay.
    fn change_factor(&mut self, turn: usize) -> usize {
        let Sub { factor, table } = self.subs[turn];
        let cols = self.groups[turn].1.clone();
        // The row's scale is one factor of this direction.
        let direction: Vec<f32> = cols.clone().map(|col| self.grid.level(table, self.codes[col]) * self.scale).collect();
        let fall: f32 = direction.iter().zip(&self.slope[cols.clone()]).map(|(d, s)| d * s).sum();
        let mut curve = 0.0;
        for (col, d) in cols.clone().zip(&direction) {
            let row = self.hessian.row(col);
            let row = &row.to_slice().unwrap_or_default()[cols.clone()];
            curve += d * row.iter().zip(&direction).map(|(h, d)| h * d).sum::<f32>();
        }
        if curve <= 0.0 {
            return 0;
        }
        let best = ((factor as f32 + fall / curve).round_ties_even() as i32).clamp(-FACTOR_MAX, FACTOR_MAX);
        if best == factor {
            return 0;
        }
        self.subs[turn].factor = best;
        for (col, d) in cols.zip(direction) {
            self.add(col, d * (best - factor) as f32);
        }
        1
    }

    /// Adds to what a column is rounded to.
    fn add(&mut self, col: usize, delta: f32) {
        self.errors[col] -= delta;
        let row = self.hessian.row(col);
        self.slope.iter_mut().zip(row.to_slice().unwrap_or_default()).for_each(|(slope, h)| *slope -= delta * h);
    }
}
