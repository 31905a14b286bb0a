//! `matmul.cu`: quantized matrix times many vectors.

use super::entering::Entering;
use super::overlap::{allow_shared, overlapping};
use super::product::{CODED, Product, of_format};
use crate::device::Device;
use crate::error::Error;
use brooklet::kernels::quant::Format;
use cudarc::driver::CudaFunction;

/// Vectors of a block.
const TOKENS: [u32; 3] = [32, 64, 128];
/// Rows of a block.
const ROWS: u32 = 128;

/// Products of many vectors.
#[derive(Clone, Debug)]
pub struct Matmul {
    /// In the order of [`CODED`], then of [`TOKENS`].
    kernels: Vec<Vec<CudaFunction>>,
}

impl Matmul {
    /// Loads the kernels.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/matmul.bin"))?;
        let load = |bits: u32, tokens: u32| {
            let function = module.function(&format!("matmul_{bits}_{tokens}"))?;
            allow_shared(device, &function)?;
            Ok(function)
        };
        let of_bits = |bits| TOKENS.iter().map(|&tokens| load(bits, tokens)).collect::<Result<Vec<_>, Error>>();
        Ok(Matmul { kernels: CODED.iter().map(|&(_, bits)| of_bits(bits)).collect::<Result<_, _>>()? })
    }

    /// Multiplies `vectors` rounded vectors.
    pub fn run(&self, device: &Device, format: Format, vectors: u32, from: &Entering, product: &Product) -> Result<(), Error> {
        if vectors == 0 || product.rows == 0 {
            return Ok(());
        }
        let kernels = of_format(&self.kernels, format)?;
        let bits = CODED.iter().find(|&&(coded, _)| coded == format).map_or(0, |&(_, bits)| bits);
        let rows = product.rows.div_ceil(ROWS);
        // The largest tile that leaves none of the processors without work, of which each runs two blocks.
        let fills = |tokens: u32| rows * vectors.div_ceil(tokens) >= 2 * device.processors();
        let tile = (0..TOKENS.len()).rev().find(|&tile| fills(TOKENS[tile])).unwrap_or(0);
        let tokens = TOKENS[tile];
        let shared = 4 * 2 * (8 * 64 * bits + 8 * 16 + tokens * 36);
        overlapping!(device, &kernels[tile], (rows, vectors.div_ceil(tokens)), 256, shared, *product, *from, vectors)
    }
}
