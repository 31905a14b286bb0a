//! From a matrix's numbers to codes and scales.

mod rtn;

use brooklet::kernels::quant::{self, Format, Matrix};
use brooklet::mem::{Line, lines_from};
use rayon::prelude::*;

/// A matrix in its storage format.
pub struct Packed {
    /// [`Format::matrix_bytes`] bytes.
    pub bytes: Vec<u8>,
    /// Root-mean-square error over root-mean-square of the weights.
    pub relative_error: f32,
}

/// Packs a matrix (rows, cols), row-major, rounding to the nearest code under searched scales.
pub fn pack(format: Format, rows: usize, cols: usize, weights: &[f32]) -> Packed {
    let weight = |row: usize, col: usize| weights[row * cols + col];
    let mut bytes = vec![0; format.matrix_bytes(rows, cols).expect("the checkpoint held as many numbers")];
    match format {
        Format::F32 => quant::pack_f32(rows, cols, weight, &mut bytes),
        Format::F16 => quant::pack_f16(rows, cols, weight, &mut bytes),
        Format::Q8 => {
            let rows_of: Vec<rtn::Row> = weights.par_chunks(cols).map(rtn::round_q8).collect();
            quant::pack_q8(rows, cols, |r| rows_of[r].scale, |r, g| rows_of[r].sub_scales[g], |r, c| rows_of[r].codes[c] as i8, &mut bytes);
        }
        Format::Q3 | Format::Q5 | Format::Q6 | Format::T2 => {
            let (levels, shift) = quant::default_table(format).expect("a format with a table");
            let grid = rtn::Grid::new(levels, shift);
            let rows_of: Vec<rtn::Row> = weights.par_chunks(cols).map(|w| rtn::round_coded(w, &grid)).collect();
            quant::pack_planes(
                format,
                rows,
                cols,
                (levels, shift),
                |r| rows_of[r].scale,
                |r, g| rows_of[r].sub_scales[g],
                |r, c| rows_of[r].codes[c],
                &mut bytes,
            );
        }
        Format::Q4 => {
            let grid = rtn::Grid::new(&quant::NONLINEAR_TABLE, quant::NONLINEAR_SHIFT);
            let rows_of: Vec<rtn::Row> = weights.par_chunks(cols).map(|w| rtn::round_coded(w, &grid)).collect();
            quant::pack_q4(
                rows,
                cols,
                &quant::NONLINEAR_TABLE,
                quant::NONLINEAR_SHIFT,
                |r| rows_of[r].scale,
                |r, g| rows_of[r].sub_scales[g],
                |r, c| rows_of[r].codes[c],
                &mut bytes,
            );
        }
    }
    let relative_error = relative_error(format, rows, cols, weights, &bytes);
    Packed { bytes, relative_error }
}

/// What the device will see, against what was there.
fn relative_error(format: Format, rows: usize, cols: usize, weights: &[f32], bytes: &[u8]) -> f32 {
    let lines = lines_from(bytes);
    let matrix = Matrix::from_bytes(format, rows, cols, &Line::bytes(&lines)[..bytes.len()]).expect("just packed");
    let (error, power) = weights
        .par_chunks(cols)
        .enumerate()
        .map(|(row, w)| {
            let mut got = vec![0.0; cols];
            matrix.unpack_row(row, &mut got);
            let square = |x: f32| f64::from(x) * f64::from(x);
            w.iter().zip(got).fold((0.0, 0.0), |(e, p), (&w, got)| (e + square(w - got), p + square(w)))
        })
        .reduce(|| (0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
    if power == 0.0 { 0.0 } else { (error / power).sqrt() as f32 }
}
