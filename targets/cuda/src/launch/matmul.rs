//! `matmul.cu`: quantized matrix times many vectors.

use super::entering::Entering;
use super::launch;
use super::overlap::{allow_shared, overlapping};
use super::product::{CODED, Product, of_format};
use crate::arena::Address;
use crate::device::Device;
use crate::error::Error;
use brooklet::kernels::quant::Format;
use cudarc::driver::CudaFunction;

/// Vectors of a block.
const TOKENS: [u32; 2] = [32, 64];
/// Rows of a block.
const ROWS: u32 = 128;

/// Tiles of the kernels that read levels written beforehand, and fewest vectors for which that pays.
const SPREAD_TOKENS: [u32; 2] = [64, 128];
const MANY: u32 = 384;
/// What a block's tile costs beside its tokens, in tokens.
const SMALL_TILE_COST: u32 = 20;
/// Bytes of a tile's levels and factors, `SpreadTile` of the kernels.
const SPREAD_TILE_BYTES: u64 = 640;

/// Products of many vectors.
#[derive(Clone, Debug)]
pub struct Matmul {
    /// In the order of [`CODED`], then of [`TOKENS`].
    kernels: Vec<Vec<CudaFunction>>,
    /// Writes a matrix's levels, in the order of [`CODED`].
    spread: Vec<CudaFunction>,
    /// Reads them, in the order of [`SPREAD_TOKENS`].
    of_spread: Vec<CudaFunction>,
}

impl Matmul {
    /// Loads the kernels.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/matmul.bin"))?;
        let load = |name: String| {
            let function = module.function(&name)?;
            allow_shared(device, &function)?;
            Ok(function)
        };
        let of_bits = |bits| TOKENS.iter().map(|tokens| load(format!("matmul_{bits}_{tokens}"))).collect::<Result<Vec<_>, Error>>();
        Ok(Matmul {
            kernels: CODED.iter().map(|&(_, bits)| of_bits(bits)).collect::<Result<_, _>>()?,
            spread: CODED.iter().map(|(_, bits)| module.function(&format!("spread_{bits}"))).collect::<Result<_, _>>()?,
            of_spread: SPREAD_TOKENS.iter().map(|tokens| load(format!("matmul_spread_{tokens}"))).collect::<Result<_, _>>()?,
        })
    }

    /// Bytes of working space with which products of up to `vectors` vectors are fastest.
    pub fn spread_bytes(vectors: u32, rows: u32, cols: u32) -> u64 {
        let tiles = u64::from(rows.div_ceil(16)) * u64::from(cols.div_ceil(32));
        if vectors < MANY { 0 } else { tiles * SPREAD_TILE_BYTES }
    }

    /// Multiplies many rounded vectors, by way of working space of [`Matmul::spread_bytes`] bytes.
    fn run_spread(
        &self,
        device: &Device,
        format: Format,
        vectors: u32,
        from: &Entering,
        product: &Product,
        room: Address,
    ) -> Result<(), Error> {
        let Product { matrix, rows, cols, .. } = *product;
        let grid = (cols.div_ceil(32).div_ceil(8), rows.div_ceil(16), 1);
        launch!(device, of_format(&self.spread, format)?, grid, 256, 0, matrix, rows, cols, room)?;
        let rows = rows.div_ceil(ROWS);
        // The time of the busiest processor, a smaller tile's work being a little slower.
        let time = |tokens: u32| (rows * vectors.div_ceil(tokens)).div_ceil(device.processors()) * (tokens + SMALL_TILE_COST);
        let tile = if time(SPREAD_TOKENS[0]) < time(SPREAD_TOKENS[1]) { 0 } else { 1 };
        let tokens = SPREAD_TOKENS[tile];
        let row_scales = matrix.plus(format.table_bytes() as u64);
        let shared = 4 * 2 * (8 * SPREAD_TILE_BYTES as u32 + tokens * 36);
        let grid = (rows, vectors.div_ceil(tokens));
        overlapping!(device, &self.of_spread[tile], grid, 256, shared, *product, *from, vectors, room, row_scales)
    }

    /// Multiplies `vectors` rounded vectors; `room` is working space for levels, and its bytes.
    pub fn run(
        &self,
        device: &Device,
        format: Format,
        vectors: u32,
        from: &Entering,
        product: &Product,
        (room, room_bytes): (Address, u64),
    ) -> Result<(), Error> {
        if vectors == 0 || product.rows == 0 {
            return Ok(());
        }
        if vectors >= MANY && Self::spread_bytes(vectors, product.rows, product.cols) <= room_bytes {
            return self.run_spread(device, format, vectors, from, product, room);
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
