//! GPTQ over groups: each column is rounded to make up for the errors of those before it, under scales that are stored.
//!
//! Groups of 32 columns stay together, since they share a sub-scale; they go in order of importance, and so do the columns of each. A
//! group's factor and table are chosen when its turn comes, by rounding the whole group under each candidate. Coordinate descent follows.

use super::descent::{Descent, Sub};
use super::factor::{Factors, factor};
use super::metric::Metric;
use super::rtn::{FACTOR_MAX, Grid, Row};
use brooklet::kernels::quant::GROUP;
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, s};
use rayon::prelude::*;
use std::ops::Range;

/// Rows that are rounded together.
const ROWS: usize = 64;
/// Groups whose far feedback is computed together.
const GROUPS: usize = 4;
/// Added to the diagonal, as a share of its mean; ten times more as often as the factors do not exist.
const DAMPING: f32 = 0.01;
const MOST_DAMPINGS: usize = 4;
/// A row's scale leaves room for groups that feedback makes larger than they were.
const HEADROOM: f32 = 1.05;

/// A metric made ready for rounding: many matrices may share it.
pub(super) struct Solver {
    /// Columns in the order of their turns: groups stay together.
    order: Vec<usize>,
    /// Original group, and its columns' turns.
    groups: Vec<(usize, Range<usize>)>,
    /// (cols, cols), damped, in the order of turns.
    hessian: Array2<f32>,
    factors: Factors,
    /// (groups): the feedback from column to column of a group, (from, to); zeros where there is none.
    inside: Vec<[[f32; GROUP]; GROUP]>,
}

impl Solver {
    /// `None` if no damping makes the metric usable.
    pub(super) fn new(metric: &Metric) -> Option<Self> {
        let diagonal = metric.diagonal();
        let falling = |a: f32, b: f32| b.total_cmp(&a);
        let columns: Vec<usize> = (0..diagonal.len()).collect();
        let mut turns: Vec<(usize, Vec<usize>)> = columns.chunks(GROUP).map(<[usize]>::to_vec).enumerate().collect();
        turns.iter_mut().for_each(|(_, cols)| cols.sort_by(|&a, &b| falling(diagonal[a], diagonal[b])));
        let weight = |cols: &[usize]| cols.iter().map(|&c| diagonal[c]).sum::<f32>();
        turns.sort_by(|a, b| falling(weight(&a.1), weight(&b.1)));
        let mut order = Vec::with_capacity(diagonal.len());
        let mut groups = Vec::with_capacity(turns.len());
        for (group, cols) in turns {
            groups.push((group, order.len()..order.len() + cols.len()));
            order.extend(cols);
        }
        let mean = metric.mean_diagonal();
        if !(mean > 0.0 && mean.is_finite()) {
            return None;
        }
        let attempt = |i: usize| {
            let hessian = metric.ordered(&order, DAMPING * 10f32.powi(i as i32) * mean);
            factor(&hessian).map(|factors| (hessian, factors))
        };
        let (hessian, factors) = (0..MOST_DAMPINGS).find_map(attempt)?;
        let inside = |(_, cols): &(usize, Range<usize>)| {
            let mut block = [[0.0; GROUP]; GROUP];
            for (from, row) in cols.clone().zip(&mut block) {
                cols.clone().zip(row).filter(|(to, _)| *to > from).for_each(|(to, f)| *f = factors.feedback[[from, to]]);
            }
            block
        };
        let inside = groups.iter().map(inside).collect();
        Some(Solver { order, groups, hessian, factors, inside })
    }

    /// What a column's rounding costs, (cols), in the file's order.
    pub(super) fn importance(&self) -> Vec<f32> {
        let mut importance = vec![0.0; self.order.len()];
        self.order.iter().zip(&self.factors.pivots).for_each(|(&col, &pivot)| importance[col] = pivot);
        importance
    }

    /// Rounds a matrix of this metric's columns.
    pub(super) fn round(&self, weights: &[f32], grid: &Grid) -> Vec<Row> {
        weights.par_chunks(ROWS * self.order.len()).flat_map_iter(|rows| Work::new(self, rows, grid).round()).collect()
    }
}

/// Some rows on their way, in the order of turns.
struct Work<'s> {
    solver: &'s Solver,
    grid: &'s Grid,
    cols: usize,
    /// (rows, cols)
    weights: Vec<f32>,
    /// (rows, cols): weights less what they are rounded to.
    errors: Array2<f32>,
    /// (rows, cols)
    codes: Vec<u8>,
    /// (rows)
    scales: Vec<f32>,
    /// (rows, groups)
    subs: Vec<Sub>,
}

impl<'s> Work<'s> {
    fn new(solver: &'s Solver, weights: &[f32], grid: &'s Grid) -> Self {
        let cols = solver.order.len();
        let rows = weights.len() / cols;
        let ordered = weights.chunks_exact(cols).flat_map(|row| solver.order.iter().map(|&col| row[col])).collect();
        Work {
            solver,
            grid,
            cols,
            weights: ordered,
            errors: Array2::zeros((rows, cols)),
            codes: vec![0; rows * cols],
            scales: vec![0.0; rows],
            subs: vec![Sub::default(); rows * solver.groups.len()],
        }
    }

    fn round(mut self) -> Vec<Row> {
        self.choose_scales();
        let groups = self.solver.groups.len();
        for first in (0..groups).step_by(GROUPS) {
            let scales = self.scales.clone();
            self.round_groups(first..(first + GROUPS).min(groups), |row, _, near| near.choose(scales[row]));
        }
        let slopes = self.descend();
        self.refit(&slopes);
        (0..self.scales.len()).map(|row| self.row(row)).collect()
    }

    /// The scale of each row, by what its groups would like without feedback.
    fn choose_scales(&mut self) {
        for (weights, scale) in self.weights.chunks_exact(self.cols).zip(&mut self.scales) {
            let ideal = |cols: &Range<usize>| self.grid.search(&weights[cols.clone()], &self.solver.factors.pivots[cols.clone()]).abs();
            let largest = self.solver.groups.iter().map(|(_, cols)| ideal(cols)).fold(0.0, f32::max);
            *scale = largest * HEADROOM / FACTOR_MAX as f32;
        }
    }

    /// Rounds the groups of some turns; `choose` gives the sub-scale of a row's group and how it rounds under it.
    fn round_groups(&mut self, turns: Range<usize>, choose: impl Fn(usize, usize, &Near<'_>) -> (Sub, Rounded)) {
        let Factors { feedback, pivots } = &self.solver.factors;
        let groups = &self.solver.groups;
        let (first, end) = (groups[turns.start].1.start, groups[turns.end - 1].1.end);
        // (rows, first..end): what weights should be to make up for the errors before them.
        let mut wanted = Array2::from_shape_fn((self.scales.len(), end - first), |(r, c)| self.weights[r * self.cols + first + c]);
        general_mat_mul(1.0, &self.errors.slice(s![.., ..first]), &feedback.slice(s![..first, first..end]), 1.0, &mut wanted);
        for (row, (mut wanted, mut errors)) in wanted.outer_iter_mut().zip(self.errors.outer_iter_mut()).enumerate() {
            let (Some(wanted), Some(errors)) = (wanted.as_slice_mut(), errors.as_slice_mut()) else { continue };
            for turn in turns.clone() {
                let cols = groups[turn].1.clone();
                let near = Near {
                    grid: self.grid,
                    inside: &self.solver.inside[turn],
                    pivots: &pivots[cols.clone()],
                    weights: &self.weights[row * self.cols..][cols.clone()],
                    wanted: &wanted[cols.start - first..cols.end - first],
                };
                let (sub, rounded) = choose(row, turn, &near);
                self.subs[row * groups.len() + turn] = sub;
                self.codes[row * self.cols..][cols.clone()].copy_from_slice(&rounded.codes[..cols.len()]);
                errors[cols.clone()].copy_from_slice(&rounded.errors[..cols.len()]);
                // The groups of this piece that are still to come; its own columns have had their feedback.
                for (col, error) in cols.clone().zip(rounded.errors) {
                    let later = feedback.slice(s![col, cols.end..end]);
                    let later = later.to_slice().unwrap_or_default();
                    wanted[cols.end - first..].iter_mut().zip(later).for_each(|(wanted, f)| *wanted += error * f);
                }
            }
        }
    }

    /// Gives back the errors times the metric, (rows, cols).
    fn descend(&mut self) -> Array2<f32> {
        let Work { solver, grid, cols, .. } = *self;
        let mut slopes = self.errors.dot(&solver.hessian);
        let groups = solver.groups.len();
        let rows = self.errors.outer_iter_mut().zip(slopes.outer_iter_mut());
        let stored = self.codes.chunks_exact_mut(cols).zip(self.subs.chunks_exact_mut(groups)).zip(&self.scales);
        for ((mut errors, mut slope), ((codes, subs), &scale)) in rows.zip(stored) {
            let (Some(errors), Some(slope)) = (errors.as_slice_mut(), slope.as_slice_mut()) else { continue };
            Descent { grid, hessian: &solver.hessian, groups: &solver.groups, scale, errors, slope, codes, subs }.run();
        }
        slopes
    }

    /// Gives each row the scale that is best while all codes and factors stay; `slopes` are the errors times the metric.
    fn refit(&mut self, slopes: &Array2<f32>) {
        let Ok(weights) = ArrayView2::from_shape(self.errors.raw_dim(), &self.weights) else { return };
        let products = weights.dot(&self.solver.hessian);
        let rows = weights.outer_iter().zip(products.outer_iter()).zip(slopes.outer_iter());
        for (((weights, products), slopes), (mut errors, scale)) in rows.zip(self.errors.outer_iter_mut().zip(&mut self.scales)) {
            let rounded = &weights - &errors;
            let (fall, curve) = (rounded.dot(&slopes), rounded.dot(&products) - rounded.dot(&slopes));
            let change = fall / curve;
            if curve > 0.0 && change.abs() < 0.5 {
                *scale *= 1.0 + change;
                errors.scaled_add(-change, &rounded);
            }
        }
    }

    /// One row in the file's order.
    fn row(&self, row: usize) -> Row {
        let groups = self.solver.groups.len();
        let mut out = Row { scale: self.scales[row], sub_scales: vec![0; groups], codes: vec![0; self.cols] };
        for (&col, &code) in self.solver.order.iter().zip(&self.codes[row * self.cols..]) {
            out.codes[col] = code;
        }
        for ((group, _), sub) in self.solver.groups.iter().zip(&self.subs[row * groups..]) {
            out.sub_scales[*group] = sub.stored();
        }
        out
    }
}

/// A group whose turn has come.
struct Near<'w> {
    grid: &'w Grid,
    /// The feedback inside the group, (from, to).
    inside: &'w [[f32; GROUP]; GROUP],
    /// What the rounding of its columns costs.
    pivots: &'w [f32],
    weights: &'w [f32],
    wanted: &'w [f32],
}

/// A group, rounded.
#[derive(Clone, Copy)]
struct Rounded {
    codes: [u8; GROUP],
    errors: [f32; GROUP],
    cost: f32,
}

impl Near<'_> {
    /// The factor and table under which the group rounds best.
    fn choose(&self, scale: f32) -> (Sub, Rounded) {
        let mut best = (Sub::default(), self.round(scale, Sub::default()));
        if scale == 0.0 {
            return best;
        }
        for table in 0..2 {
            for sign in [1.0, -1.0] {
                let ideal = self.grid.search_in(table, sign, self.wanted, self.pivots).1;
                let near = ((ideal / scale).round_ties_even() as i32).clamp(-FACTOR_MAX, FACTOR_MAX);
                for factor in (near - 1).max(-FACTOR_MAX)..=(near + 1).min(FACTOR_MAX) {
                    let sub = Sub { factor, table };
                    let rounded = self.round(scale, sub);
                    if rounded.cost < best.1.cost {
                        best = (sub, rounded);
                    }
                }
            }
        }
        best
    }

    /// Rounds the group column by column, with the feedback inside it.
    fn round(&self, scale: f32, sub: Sub) -> Rounded {
        let step = sub.factor as f32 * scale;
        let inverse = if step == 0.0 { 0.0 } else { 1.0 / step };
        let mut rounded = Rounded { codes: [0; GROUP], errors: [0.0; GROUP], cost: 0.0 };
        let mut wanted = [0.0; GROUP];
        wanted[..self.wanted.len()].copy_from_slice(self.wanted);
        for (i, &weight) in self.weights.iter().enumerate() {
            let code = self.grid.code(sub.table, wanted[i] * inverse);
            let value = self.grid.level(sub.table, code) * step;
            let off = wanted[i] - value;
            rounded.cost += self.pivots[i] * off * off;
            rounded.codes[i] = code;
            let error = weight - value;
            rounded.errors[i] = error;
            // Columns that are done get nothing: whole rows take fewer instructions than what is left of them.
            wanted.iter_mut().zip(&self.inside[i]).for_each(|(wanted, f)| *wanted += error * f);
        }
        rounded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::default_table;
    use brooklet::kernels::quant::Format;

    /// Under the same scales, the codes are those of an independent implementation: quantize/reference/gptq_oracle.py.
    #[test]
    fn codes_are_those_of_the_oracle() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/gptq.json");
        let fixture: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let numbers = |key: &str| fixture[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<f64>>();
        let floats = |key: &str| numbers(key).into_iter().map(|x| x as f32).collect::<Vec<f32>>();
        let (weights, cols) = (floats("weights"), fixture["cols"].as_u64().unwrap() as usize);
        let mut metric = Metric::new(cols);
        metric.add(&floats("inputs"));
        let solver = Solver::new(&metric).unwrap();
        let grid = default_table(Format::Q4).grid();
        let (factors, tables) = (numbers("factors"), numbers("tables"));
        let groups = solver.groups.len();
        let mut work = Work::new(&solver, &weights, &grid);
        work.scales = floats("scales");
        let scales = work.scales.clone();
        for turn in 0..groups {
            work.round_groups(turn..turn + 1, |row, turn, near| {
                let at = row * groups + solver.groups[turn].0;
                let sub = Sub { factor: factors[at] as i32, table: tables[at] as usize };
                (sub, near.round(scales[row], sub))
            });
        }
        let want: Vec<u8> = numbers("codes").into_iter().map(|c| c as u8).collect();
        for (row, want) in want.chunks(cols).enumerate() {
            assert_eq!(work.row(row).codes, want, "row {row}");
        }
        let cost = |work: &Work<'_>| (&work.errors.dot(&solver.hessian) * &work.errors).sum();
        let before = cost(&work);
        let slopes = work.descend();
        let descended = cost(&work);
        work.refit(&slopes);
        println!("cost {before}, {descended} after descent, {} with refitted scales", cost(&work));
        assert!(descended < before && cost(&work) < descended);
        // The errors are those of what is stored.
        let stored = |row: usize| {
            let (row, scale) = (work.row(row), work.scales[row]);
            (0..cols)
                .map(|c| {
                    f32::from(row.sub_scales[c / GROUP] >> 1)
                        * scale
                        * grid.level(usize::from(row.sub_scales[c / GROUP] & 1 == 1), row.codes[c])
                })
                .collect::<Vec<f32>>()
        };
        for (row, weights) in weights.chunks(cols).enumerate() {
            let errors: Vec<f32> = solver.order.iter().map(|&c| weights[c] - stored(row)[c]).collect();
            assert!(errors.iter().zip(work.errors.row(row)).all(|(a, b)| (a - b).abs() < 1e-4), "row {row}");
        }
    }
}
