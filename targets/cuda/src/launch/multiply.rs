//! `multiply.cu`: products of every format and shape.

use super::launch;
use crate::arena::Address;
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use cudarc::driver::{CudaFunction, DeviceRepr};

/// The general road from vectors to products.
#[derive(Clone, Debug)]
pub struct Multiply {
    round_vectors: CudaFunction,
    round_aligned: CudaFunction,
    multiply: CudaFunction,
}

/// Vectors (rows, picks, width) in memory.
#[derive(Clone, Copy, Debug)]
pub struct Vectors {
    /// The first number.
    pub at: Address,
    /// Numbers from row to row.
    pub row_stride: u64,
    /// Numbers from pick to pick; 0 if all picks of a row share one vector.
    pub pick_stride: u64,
    /// Picks of a row: 1, or the experts of a token.
    pub picks: u32,
}

/// Room for rounded vectors: (vectors, groups * 32) codes, (vectors, groups) scales and sums.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Rounded {
    /// Codes.
    pub codes: Address,
    /// Scales.
    pub scales: Address,
    /// Sums of codes.
    pub sums: Address,
}

// SAFETY: the same fields as the kernels' struct.
unsafe impl DeviceRepr for Rounded {}

/// Where products go, and what is done to them: `((w x) + bias) * scale`, with a cap also `cap * tanh(y / cap)`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Outcome {
    /// The first number.
    pub out: Address,
    /// (matrix rows), or null.
    pub bias: Address,
    /// Numbers from row to row.
    pub row_stride: u64,
    /// Numbers from pick to pick.
    pub pick_stride: u64,
    /// Factor.
    pub scale: f32,
    /// Bound, or 0.
    pub cap: f32,
}

// SAFETY: the same fields as the kernels' struct.
unsafe impl DeviceRepr for Outcome {}

/// Which matrix.
#[derive(Clone, Copy, Debug)]
pub struct Which {
    /// The table of matrices.
    pub matrices: Address,
    /// Its number there, or that of the first expert's.
    pub id: u32,
    /// Experts chosen by each row, (rows, 32), or null.
    pub chosen: Address,
    /// Rows of the matrix.
    pub rows: u32,
}

impl Multiply {
    /// Loads the kernels.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/multiply.bin"))?;
        Ok(Multiply {
            round_vectors: module.function("round_vectors")?,
            round_aligned: module.function("round_aligned")?,
            multiply: module.function("multiply")?,
        })
    }

    /// Rounds the vectors of `rows` rows, (cols) each.
    pub fn round(&self, device: &Device, batch: &Batch, rows: u32, x: &Vectors, cols: u32, to: Rounded) -> Result<(), Error> {
        let picks = if x.pick_stride == 0 { 1 } else { x.picks };
        let grid = (cols.div_ceil(32).div_ceil(16), rows, picks);
        let is_aligned = [x.at.number(), 4 * x.row_stride, 4 * x.pick_stride].iter().all(|at| at.is_multiple_of(16));
        let kernel = if is_aligned { &self.round_aligned } else { &self.round_vectors };
        launch!(device, kernel, grid, 128, 0, *batch, x.at, x.row_stride, x.pick_stride, cols, to)
    }

    /// Multiplies a matrix with the vectors of `rows` rows.
    pub fn run(
        &self,
        device: &Device,
        batch: &Batch,
        rows: u32,
        which: &Which,
        x: &Vectors,
        rounded: Rounded,
        to: &Outcome,
    ) -> Result<(), Error> {
        let Which { matrices, id, chosen, rows: matrix_rows } = *which;
        let grid = (matrix_rows.div_ceil(16), rows, x.picks);
        let Vectors { at, row_stride, pick_stride, .. } = *x;
        launch!(device, &self.multiply, grid, 256, 0, *batch, matrices, id, chosen, at, row_stride, pick_stride, rounded, *to)
    }
}
