//! From a matrix's numbers to codes and scales.
//!
//! `rtn` rounds each weight to the nearest code under searched scales, all weights alike or by importance; `gptq` rounds in the metric
//! of the matrix's inputs ([`Metric`]), through its factors (`factor`), and ends with `descent`; `table` trains a matrix's own levels.

mod descent;
mod factor;
mod gptq;
mod metric;
mod rtn;
mod table;

pub use metric::Metric;

use brooklet::kernels::quant::{self, Format, GROUP, Matrix};
use brooklet::mem::{Line, lines_from};
use rayon::prelude::*;
use table::Table;

/// A matrix in its storage format.
pub struct Packed {
    /// [`Format::matrix_bytes`] bytes.
    pub bytes: Vec<u8>,
    /// Root-mean-square error over root-mean-square of the weights.
    pub relative_error: f32,
    /// Share of the squared error of what it gives that is left of nearest rounding's, over the inputs that its codes were chosen by.
    pub left: f32,
}

/// How codes are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// The nearest code, scales searched.
    Nearest,
    /// The same, with each input's importance.
    Weighted,
    /// Each column makes up for the errors of those before it.
    Gptq,
}

impl Method {
    /// The name used in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Method::Nearest => "nearest",
            Method::Weighted => "weighted",
            Method::Gptq => "gptq",
        }
    }
}

/// What int8 activations are off by, relative to their size.
pub(crate) const ACTIVATION_ERROR: f64 = 0.006;
/// Inputs below which a metric says which columns matter, but not how they go together.
const FEW_STEPS: u64 = 64;

/// Packs a matrix (rows, cols), row-major, rounding to the nearest code under searched scales.
pub fn pack(format: Format, rows: usize, cols: usize, weights: &[f32]) -> Packed {
    let table = default_table(format);
    let bytes = encode(format, rows, cols, weights, &table, || nearest_rows(&table, cols, weights));
    with_error(format, rows, cols, weights, bytes)
}

/// Packs a matrix of `rows` rows, those of `sample` (sample rows, cols) again and again: only these are searched for their scales.
pub(crate) fn pack_repeated(format: Format, rows: usize, cols: usize, sample: &[f32]) -> Packed {
    let table = default_table(format);
    let weights: Vec<f32> = sample.iter().copied().cycle().take(rows * cols).collect();
    let bytes =
        encode(format, rows, cols, &weights, &table, || nearest_rows(&table, cols, sample).iter().cycle().take(rows).cloned().collect());
    with_error(format, rows, cols, &weights, bytes)
}

/// Rows (rows, cols) as the nearest codes of a table, all weights alike.
fn nearest_rows(table: &Table, cols: usize, weights: &[f32]) -> Vec<rtn::Row> {
    let grid = rtn::Grid::new(&table.levels, table.shift);
    weights.par_chunks(cols).map(|w| rtn::round_coded(w, &grid, |_| &rtn::ALIKE)).collect()
}

/// Packs matrices that multiply the same inputs.
pub struct Packer<'m> {
    metric: &'m Metric,
    solver: Option<gptq::Solver>,
}

impl<'m> Packer<'m> {
    /// Makes a metric ready for `method`.
    pub fn new(metric: &'m Metric, method: Method) -> Self {
        let solver = (method == Method::Gptq && metric.steps() >= FEW_STEPS).then(|| gptq::Solver::new(metric)).flatten();
        Packer { metric, solver }
    }

    /// Packs a matrix (rows, cols), row-major: never at a higher cost in the metric than [`pack`].
    pub fn pack(&self, format: Format, rows: usize, cols: usize, weights: &[f32]) -> Packed {
        let nearest = pack(format, rows, cols, weights);
        if !takes_metric(format) || self.metric.steps() == 0 || self.metric.cols() != cols {
            return nearest;
        }
        let importance = self.solver.as_ref().map_or_else(|| self.metric.importance(), gptq::Solver::importance);
        let table = default_table(format);
        // Levels that the file has no room for are as they are.
        let table = if format.table_bytes() > 0 { table.trained(weights, cols, &importance) } else { table };
        let bytes = encode(format, rows, cols, weights, &table, || match &self.solver {
            Some(solver) => solver.round(weights, &table.grid()),
            None => {
                let (grid, groups) = (table.grid(), importance.chunks(GROUP).collect::<Vec<&[f32]>>());
                weights.par_chunks(cols).map(|w| rtn::round_coded(w, &grid, |g| groups[g])).collect()
            }
        });
        let chosen = with_error(format, rows, cols, weights, bytes);
        let cost = |packed: &Packed| self.metric.cost(weights, &unpack(format, rows, cols, &packed.bytes));
        let (of_chosen, of_nearest) = (cost(&chosen), cost(&nearest));
        if of_chosen >= of_nearest {
            return nearest;
        }
        Packed { left: (of_chosen / of_nearest).max(0.0) as f32, ..chosen }
    }
}

/// Whether a format's codes can be chosen by a metric: those of 8 bits are good enough as they are.
pub fn takes_metric(format: Format) -> bool {
    matches!(format, Format::T2 | Format::Q3 | Format::Q4 | Format::Q5 | Format::Q6)
}

/// The table of a format whose codes stand for levels, before it is trained.
fn default_table(format: Format) -> Table {
    let (levels, shift) = quant::default_table(format).unwrap_or((&quant::NONLINEAR_TABLE, quant::NONLINEAR_SHIFT));
    Table { levels: levels.to_vec(), shift }
}

/// The bytes of a matrix; `coded` gives the rows of those formats that have a table.
fn encode(format: Format, rows: usize, cols: usize, weights: &[f32], table: &Table, coded: impl FnOnce() -> Vec<rtn::Row>) -> Vec<u8> {
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
            let table = (&table.levels[..], table.shift);
            let rows_of = coded();
            let (scale, sub_scale) = (|r: usize| rows_of[r].scale, |r: usize, g: usize| rows_of[r].sub_scales[g]);
            quant::pack_planes(format, rows, cols, table, scale, sub_scale, |r, c| rows_of[r].codes[c], &mut bytes);
        }
        Format::Q4 => {
            let rows_of = coded();
            let (scale, sub_scale) = (|r: usize| rows_of[r].scale, |r: usize, g: usize| rows_of[r].sub_scales[g]);
            let levels = table.levels.first_chunk().expect("a level for each of 16 codes");
            quant::pack_q4(rows, cols, levels, table.shift, scale, sub_scale, |r, c| rows_of[r].codes[c], &mut bytes);
        }
    }
    bytes
}

/// What the device will see, (rows, cols).
pub fn unpack(format: Format, rows: usize, cols: usize, bytes: &[u8]) -> Vec<f32> {
    let lines = lines_from(bytes);
    let matrix = Matrix::from_bytes(format, rows, cols, &Line::bytes(&lines)[..bytes.len()]).expect("just packed");
    let mut out = vec![0.0; rows * cols];
    out.par_chunks_mut(cols).enumerate().for_each(|(row, out)| matrix.unpack_row(row, out));
    out
}

/// What the device will see, against what was there.
fn with_error(format: Format, rows: usize, cols: usize, weights: &[f32], bytes: Vec<u8>) -> Packed {
    let lines = lines_from(&bytes);
    let matrix = Matrix::from_bytes(format, rows, cols, &Line::bytes(&lines)[..bytes.len()]).expect("just packed");
    let sums: Vec<(f64, f64)> = weights
        .par_chunks(cols)
        .enumerate()
        .map(|(row, w)| {
            let mut got = vec![0.0; cols];
            matrix.unpack_row(row, &mut got);
            let square = |x: f32| f64::from(x) * f64::from(x);
            w.iter().zip(got).fold((0.0, 0.0), |(e, p), (&w, got)| (e + square(w - got), p + square(w)))
        })
        .collect();
    // In the rows' order, whatever the threads.
    let (error, power) = sums.iter().fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
    let relative_error = if power == 0.0 { 0.0 } else { (error / power).sqrt() as f32 };
    Packed { bytes, relative_error, left: 1.0 }
}
