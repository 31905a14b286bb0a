//! Tables trained for a matrix: the levels that its own weights, divided by their groups' scales, lie closest to.
//!
//! Lloyd's algorithm: round under the table so far, then move every level to the mean of the weights that took it, each by its
//! importance and its scale squared; the shift between the two tables likewise.

use super::rtn::{Grid, Row, round_coded};
use brooklet::kernels::quant::GROUP;
use rayon::prelude::*;

/// Rows that tell how all are distributed.
const ROWS: usize = 192;
const ROUNDS: usize = 4;

/// Levels of the codes, and what the second table adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) levels: Vec<i8>,
    pub(super) shift: i8,
}

impl Table {
    pub(super) fn grid(&self) -> Grid {
        Grid::fine(&self.levels, self.shift)
    }

    /// The best table found from this one on, for a matrix of `cols` columns of these importances.
    pub(super) fn trained(self, weights: &[f32], cols: usize, importance: &[f32]) -> Table {
        let rows = weights.len() / cols.max(1);
        let stride = rows.div_ceil(ROWS).max(1);
        let sample: Vec<&[f32]> = weights.chunks_exact(cols).step_by(stride).collect();
        let (mut best, mut table) = ((f64::INFINITY, self.clone()), self);
        for _ in 0..=ROUNDS {
            let sums = table.sums(&sample, importance);
            if sums.error < best.0 {
                best = (sums.error, table.clone());
            }
            let next = table.moved(&sums);
            if next == table {
                break;
            }
            table = next;
        }
        best.1
    }

    fn sums(&self, sample: &[&[f32]], importance: &[f32]) -> Sums {
        let grid = self.grid();
        let groups: Vec<&[f32]> = importance.chunks(GROUP).collect();
        let of_rows: Vec<Sums> = sample
            .par_iter()
            .map(|weights| {
                let mut sums = Sums::new(self.levels.len());
                sums.add(self, weights, importance, &round_coded(weights, &grid, |g| groups[g]));
                sums
            })
            .collect();
        of_rows.into_iter().fold(Sums::new(self.levels.len()), Sums::join)
    }

    fn moved(&self, sums: &Sums) -> Table {
        let mean = |(sum, weight): (f64, f64), before: i8| if weight > 0.0 { sum / weight } else { f64::from(before) };
        let shift = mean(sums.shift, self.shift).round().clamp(0.0, 32.0) as i8;
        let most = 127.0 - f64::from(shift);
        let moved = self.levels.iter().zip(&sums.levels).map(|(&level, &sum)| mean(sum, level).round().clamp(-127.0, most) as i8);
        Table { levels: moved.collect(), shift }
    }
}

/// Sums over rounded weights, each with the sum of what it is weighted by.
struct Sums {
    /// (levels): weights in units of their step, less the shift.
    levels: Vec<(f64, f64)>,
    /// Weights of the second table in units of their step, less their level.
    shift: (f64, f64),
    error: f64,
}

impl Sums {
    fn new(levels: usize) -> Self {
        Sums { levels: vec![(0.0, 0.0); levels], shift: (0.0, 0.0), error: 0.0 }
    }

    fn add(&mut self, table: &Table, weights: &[f32], importance: &[f32], row: &Row) {
        for (col, ((&w, &h), &code)) in weights.iter().zip(importance).zip(&row.codes).enumerate() {
            let sub = row.sub_scales[col / GROUP];
            let step = f64::from(row.scale) * f64::from(sub >> 1);
            let shift = f64::from(sub & 1) * f64::from(table.shift);
            let level = f64::from(table.levels[usize::from(code)]);
            let (w, h) = (f64::from(w), f64::from(h));
            self.error += h * (w - step * (level + shift)).powi(2);
            // step * step * (w / step), without a division by a step of zero.
            let (part, weight) = (h * step * w, h * step * step);
            let sum = &mut self.levels[usize::from(code)];
            *sum = (sum.0 + part - weight * shift, sum.1 + weight);
            if sub & 1 == 1 {
                self.shift = (self.shift.0 + part - weight * level, self.shift.1 + weight);
            }
        }
    }

    fn join(mut self, other: Sums) -> Self {
        let add = |a: (f64, f64), b: (f64, f64)| (a.0 + b.0, a.1 + b.1);
        self.levels.iter_mut().zip(other.levels).for_each(|(a, b)| *a = add(*a, b));
        Sums { levels: self.levels, shift: add(self.shift, other.shift), error: self.error + other.error }
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn levels_go_where_the_weights_are() {
        // Seven values of a bell, with no two steps alike, and four times a row's scale.
        let values = [-1.0f32, -0.55, -0.2, 0.02, 0.3, 0.61, 0.97];
        let weights: Vec<f32> = (0..40 * 64).map(|i| values[(i * 31 + i / 7) % 7] * (1 + i / 64 % 4) as f32).collect();
        let start = Table { levels: vec![-100, -64, -38, -14, 10, 35, 67, 114], shift: 13 };
        let importance = vec![1.0; 64];
        let error = |table: &Table| table.sums(&weights.chunks(64).collect::<Vec<_>>(), &importance).error;
        let trained = start.clone().trained(&weights, 64, &importance);
        assert!(error(&trained) < 0.5 * error(&start), "{} {}", error(&trained), error(&start));
        assert!(trained.levels.iter().all(|l| l.checked_add(trained.shift).is_some()));
    }
}
