//! What an error in a matrix costs: the second moments of the vectors that it multiplies.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, Axis, s};
use rayon::prelude::*;

/// Rows of the moments that are summed as one piece of work.
const PIECE: usize = 128;

/// Second moments of a matrix's inputs: an error `e` of one row costs `e H e^T`.
#[derive(Clone, Debug)]
pub struct Metric {
    /// (cols, cols): sum of x x^T; only what lies below the diagonal, and the diagonal, is kept up to date.
    moments: Array2<f32>,
    steps: u64,
}

impl Metric {
    /// No inputs yet.
    pub fn new(cols: usize) -> Self {
        Metric { moments: Array2::zeros((cols, cols)), steps: 0 }
    }

    /// Inputs seen.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Columns of the matrix.
    pub fn cols(&self) -> usize {
        self.moments.nrows()
    }

    /// Adds inputs, (steps, cols).
    pub fn add(&mut self, inputs: &[f32]) {
        let cols = self.cols();
        let Ok(x) = ArrayView2::from_shape((inputs.len() / cols.max(1), cols), inputs) else { return };
        self.steps += x.nrows() as u64;
        let pieces: Vec<_> = self.moments.axis_chunks_iter_mut(Axis(0), PIECE).enumerate().collect();
        pieces.into_par_iter().for_each(|(piece, mut rows)| {
            let first = piece * PIECE;
            let end = first + rows.nrows();
            general_mat_mul(1.0, &x.slice(s![.., first..end]).t(), &x.slice(s![.., ..end]), 1.0, &mut rows.slice_mut(s![.., ..end]));
        });
    }

    /// Adds what another metric has seen, `factor` times.
    pub fn merge(&mut self, other: &Metric, factor: f32) {
        self.moments.scaled_add(factor, &other.moments);
        self.steps += other.steps;
    }

    /// Adds `amount` of a metric in which all inputs are alike and independent, as a share of the mean of the diagonal.
    pub fn add_even(&mut self, amount: f32) {
        let add = amount * self.mean_diagonal();
        self.moments.diag_mut().iter_mut().for_each(|h| *h += add);
    }

    pub(super) fn mean_diagonal(&self) -> f32 {
        let sum: f64 = self.moments.diag().iter().map(|&h| f64::from(h)).sum();
        (sum / self.cols().max(1) as f64) as f32
    }

    /// The moment of two inputs.
    pub(super) fn at(&self, a: usize, b: usize) -> f32 {
        self.moments[[a.max(b), a.min(b)]]
    }

    /// Importance of each input on its own.
    pub(super) fn diagonal(&self) -> Vec<f32> {
        self.moments.diag().to_vec()
    }

    /// Mean square of each input.
    pub(crate) fn mean_squares(&self) -> Vec<f64> {
        self.moments.diag().iter().map(|&sum| f64::from(sum) / self.steps.max(1) as f64).collect()
    }

    /// Importance, never zero: a column that the inputs so far left out may still be used.
    pub(super) fn importance(&self) -> Vec<f32> {
        let floor = 0.01 * self.mean_diagonal();
        self.diagonal().iter().map(|h| h + floor).collect()
    }

    /// The whole symmetric matrix in another order of columns, with `damping` added to the diagonal.
    pub(super) fn ordered(&self, order: &[usize], damping: f32) -> Array2<f32> {
        let mut whole = Array2::zeros((order.len(), order.len()));
        let mut rows: Vec<_> = whole.axis_iter_mut(Axis(0)).enumerate().collect();
        rows.par_iter_mut().for_each(|(i, row)| {
            for (out, &col) in row.iter_mut().zip(order) {
                *out = self.at(order[*i], col);
            }
            row[*i] += damping;
        });
        whole
    }

    /// Cost of replacing `weights` by `packed`, both (rows, cols).
    pub fn cost(&self, weights: &[f32], packed: &[f32]) -> f64 {
        let cols = self.cols();
        let order: Vec<usize> = (0..cols).collect();
        let moments = self.ordered(&order, 0.0);
        let pieces = weights.par_chunks(PIECE * cols.max(1)).zip(packed.par_chunks(PIECE * cols.max(1)));
        let costs: Vec<f64> = pieces
            .map(|(weights, packed)| {
                let errors: Vec<f32> = weights.iter().zip(packed).map(|(w, p)| w - p).collect();
                let Ok(errors) = ArrayView2::from_shape((errors.len() / cols.max(1), cols), &errors) else { return 0.0 };
                let products = errors.dot(&moments);
                errors.iter().zip(&products).map(|(&e, &p)| f64::from(e) * f64::from(p)).sum()
            })
            .collect();
        costs.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::Metric;

    #[test]
    fn the_cost_is_that_of_the_outputs() {
        let cols = 150;
        let number = |i: usize| ((i * 2_654_435_761) % 1000) as f32 / 500.0 - 1.0;
        let inputs: Vec<f32> = (0..20 * cols).map(number).collect();
        let (weights, packed): (Vec<f32>, Vec<f32>) = (0..3 * cols).map(|i| (number(7 * i + 1), number(11 * i + 3))).unzip();
        let mut metric = Metric::new(cols);
        metric.add(&inputs[..5 * cols]);
        metric.add(&inputs[5 * cols..]);
        assert_eq!(metric.steps(), 20);
        let mut want = 0.0;
        for x in inputs.chunks(cols) {
            for (w, p) in weights.chunks(cols).zip(packed.chunks(cols)) {
                let y: f64 = x.iter().zip(w).zip(p).map(|((&x, &w), &p)| f64::from(x) * f64::from(w - p)).sum();
                want += y * y;
            }
        }
        let got = metric.cost(&weights, &packed);
        assert!((got / want - 1.0).abs() < 1e-4, "{got} {want}");
    }
}
