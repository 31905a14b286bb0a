//! `H = R D R^T` with a unit upper triangular `R`: how an error in one column is made up for in the columns behind it.
//!
//! For a row's errors `e`, `e H e^T` is the sum over columns j of `D_j (e_j + sum over i < j of e_i R_ij)^2`: rounding column by column, each
//! to what its weight plus `sum of e_i R_ij` is nearest to, is GPTQ without an inverse.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, Axis, s};
use rayon::prelude::*;

/// Columns that are eliminated together.
const BLOCK: usize = 64;
/// Rows of what is left that are updated as one piece of work.
const PIECE: usize = 128;

/// The factors of a metric.
pub(super) struct Factors {
    /// R, (cols, cols), ones on the diagonal and zeros below it.
    pub(super) feedback: Array2<f32>,
    /// D, (cols): what a column's rounding costs that no later column makes up for.
    pub(super) pivots: Vec<f32>,
}

/// Factors a symmetric matrix; `None` if it is not positive definite in `f64`.
pub(super) fn factor(h: &Array2<f32>) -> Option<Factors> {
    let n = h.nrows();
    // Cholesky eliminates from the first column on; here the last one has to go first.
    let mut lower = Array2::from_shape_fn((n, n), |(i, j)| if j <= i { f64::from(h[[n - 1 - i, n - 1 - j]]) } else { 0.0 });
    cholesky(&mut lower)?;
    let scales: Vec<f64> = (0..n).map(|b| lower[[n - 1 - b, n - 1 - b]]).collect();
    let mut feedback = Array2::zeros((n, n));
    for (a, mut row) in feedback.axis_iter_mut(Axis(0)).enumerate() {
        for b in a..n {
            row[b] = (lower[[n - 1 - a, n - 1 - b]] / scales[b]) as f32;
        }
    }
    let pivots: Vec<f32> = scales.iter().map(|s| (s * s) as f32).collect();
    let sound = pivots.iter().all(|p| p.is_finite() && *p > 0.0) && feedback.iter().all(|r| r.is_finite());
    sound.then_some(Factors { feedback, pivots })
}

/// Replaces the lower triangle of `a` by its Cholesky factor.
fn cholesky(a: &mut Array2<f64>) -> Option<()> {
    let n = a.nrows();
    for first in (0..n).step_by(BLOCK) {
        let end = (first + BLOCK).min(n);
        for j in first..end {
            for i in j..end {
                let sum: f64 = (first..j).map(|k| a[[i, k]] * a[[j, k]]).sum();
                let left = a[[i, j]] - sum;
                if i == j {
                    if !(left > 0.0 && left.is_finite()) {
                        return None;
                    }
                    a[[j, j]] = left.sqrt();
                } else {
                    a[[i, j]] = left / a[[j, j]];
                }
            }
        }
        let corner = a.slice(s![first..end, first..end]).to_owned();
        let (_, mut rest) = a.view_mut().split_at(Axis(0), end);
        let mut rows: Vec<_> = rest.axis_iter_mut(Axis(0)).collect();
        rows.par_iter_mut().for_each(|row| {
            for j in first..end {
                let sum: f64 = (first..j).map(|k| row[k] * corner[[j - first, k - first]]).sum();
                row[j] = (row[j] - sum) / corner[[j - first, j - first]];
            }
        });
        drop(rows);
        let panel = rest.slice(s![.., first..end]).to_owned();
        let panel: ArrayView2<'_, f64> = panel.view();
        let pieces: Vec<_> = rest.axis_chunks_iter_mut(Axis(0), PIECE).enumerate().collect();
        pieces.into_par_iter().for_each(|(piece, mut rows)| {
            let at = piece * PIECE;
            let to = at + rows.nrows();
            let (own, left) = (panel.slice(s![at..to, ..]), panel.slice(s![..to, ..]));
            general_mat_mul(-1.0, &own, &left.t(), 1.0, &mut rows.slice_mut(s![.., end..end + to]));
        });
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::factor;
    use ndarray::Array2;

    #[test]
    fn the_factors_multiply_to_the_matrix() {
        for n in [1, 5, 64, 200] {
            let x = Array2::from_shape_fn((2 * n, n), |(i, j)| ((i * 7919 + j * 104_729 + i * j) % 1013) as f32 / 500.0 - 1.0);
            let h = x.t().dot(&x) + Array2::<f32>::eye(n);
            let f = factor(&h).unwrap();
            let scaled = Array2::from_shape_fn((n, n), |(i, j)| f.feedback[[i, j]] * f.pivots[j]);
            let again = scaled.dot(&f.feedback.t());
            let largest = h.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            assert!(h.iter().zip(&again).all(|(a, b)| (a - b).abs() <= 1e-4 * largest), "{n}");
        }
        assert!(factor(&Array2::from_elem((3, 3), -1.0)).is_none());
    }
}
