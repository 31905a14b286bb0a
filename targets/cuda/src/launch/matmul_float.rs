//! `matmul_float.cu`: float matrix times many vectors.

use super::{Outcome, Vectors, Which, launch};
use crate::arena::Address;
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use brooklet::kernels::quant::Format;
use cudarc::driver::CudaFunction;

/// Rows and vectors of a block.
const TILE: u32 = 64;
/// Fewest vectors that it is for.
const MANY: u32 = 16;

/// Products of float matrices with many vectors.
#[derive(Clone, Debug)]
pub struct MatmulFloat {
    f32: CudaFunction,
    f16: CudaFunction,
}

impl MatmulFloat {
    /// Loads the kernels.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/matmul_float.bin"))?;
        Ok(MatmulFloat { f32: module.function("matmul_f32")?, f16: module.function("matmul_f16")? })
    }

    /// Multiplies a matrix with the vectors of `rows` rows, of which there must be many, each one vector.
    pub fn run(
        &self,
        device: &Device,
        batch: &Batch,
        rows: u32,
        format: Format,
        which: &Which,
        x: &Vectors,
        to: &Outcome,
    ) -> Result<(), Error> {
        let kernel = match format {
            Format::F32 => &self.f32,
            Format::F16 => &self.f16,
            _ => return Err(Error::Launch { what: "this format" }),
        };
        if rows < MANY || x.picks != 1 || which.chosen != Address::NULL {
            return Err(Error::Launch { what: "so few rows, or experts," });
        }
        let grid = (which.rows.div_ceil(TILE), rows.div_ceil(TILE), 1);
        launch!(device, kernel, grid, 256, 0, *batch, which.matrices, which.id, x.at, x.row_stride, rows, *to)
    }
}
