//! `matvec.cu`: quantized matrix times one to eight vectors, with what comes before and after it in a step.

use super::entering::{Entering, EnteringKind};
use super::overlap::{allow_shared, overlapping};
use super::product::{After, CODED, MOST_TAPS, Product, of_format};
use crate::device::Device;
use crate::error::Error;
use brooklet::kernels::quant::{Format, GROUP, TILE_ROWS};
use cudarc::driver::CudaFunction;

/// Warps of a block.
const WARPS: u32 = 16;
/// Chunks of tiles in a warp's ring.
const CHUNKS: u32 = 2;
/// Numbers that a row of the first pass has in shared memory.
const BASE_NUMBERS: u32 = 2 + 2 * MOST_TAPS;

/// The kernels of one format.
#[derive(Clone, Debug)]
struct Kernels {
    bits: u32,
    one: CudaFunction,
    some: CudaFunction,
}

/// Products of few vectors.
#[derive(Clone, Debug)]
pub struct Matvec {
    /// In the order of [`CODED`].
    formats: Vec<Kernels>,
    most_shared_bytes: u32,
}

impl Matvec {
    /// Most vectors of a launch.
    pub const MOST_VECTORS: u32 = 8;

    /// Loads the kernels.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/matvec.bin"))?;
        let mut most_shared_bytes = 0;
        let mut load = |name: String| {
            let function = module.function(&name)?;
            most_shared_bytes = allow_shared(device, &function)?;
            Ok::<_, Error>(function)
        };
        let mut formats = Vec::new();
        for (_, bits) in CODED {
            let (one, some) = (load(format!("matvec_{bits}_one"))?, load(format!("matvec_{bits}_some"))?);
            formats.push(Kernels { bits, one, some });
        }
        Ok(Matvec { formats, most_shared_bytes })
    }

    /// Makes `vectors` vectors, rounds and multiplies them: up to [`Matvec::MOST_VECTORS`], of as many numbers as there is room for.
    pub fn run(
        &self,
        device: &Device,
        format: Format,
        vectors: u32,
        from: &Entering,
        product: &Product,
        after: &After,
    ) -> Result<(), Error> {
        let kernels = of_format(&self.formats, format)?;
        let too_much = Error::Launch { what: "a product of this many vectors, or this wide," };
        let (blocks, pass_tile_rows, shared_bytes) = self.cut(device, kernels, vectors, from, product).ok_or(too_much)?;
        let kernel = if vectors == 1 { &kernels.one } else { &kernels.some };
        overlapping!(device, kernel, (blocks, 1), 32 * WARPS, shared_bytes, *product, *from, *after, vectors, pass_tile_rows)
    }

    /// Whether [`Matvec::run`] takes it.
    pub fn takes(&self, device: &Device, format: Format, vectors: u32, from: &Entering, product: &Product) -> bool {
        of_format(&self.formats, format).is_ok_and(|kernels| self.cut(device, kernels, vectors, from, product).is_some())
    }

    /// Blocks, tile rows of a pass, bytes of shared memory.
    fn cut(&self, device: &Device, kernels: &Kernels, vectors: u32, from: &Entering, product: &Product) -> Option<(u32, u32, u32)> {
        let tile_rows = product.rows.div_ceil(TILE_ROWS as u32);
        let blocks = Some(device.processors().min(tile_rows)).filter(|&blocks| blocks > 0)?;
        let room = Room::new(kernels.bits, vectors, product.cols, from.kind != EnteringKind::Rounded);
        let room = room.filter(|_| (1..=Self::MOST_VECTORS).contains(&vectors))?;
        let (pass_tile_rows, shared_bytes) = room.fit(tile_rows.div_ceil(blocks), self.most_shared_bytes)?;
        Some((blocks, pass_tile_rows, shared_bytes))
    }
}

/// Shared memory of a block, in bytes, as `matvec` of the kernels lays it out.
struct Room {
    /// Rings, codes, scales, factors.
    fixed: u32,
    /// A vector's values, before there are terms.
    values: u32,
    /// The terms of a tile row.
    tile_row: u32,
    vectors: u32,
}

impl Room {
    fn new(bits: u32, vectors: u32, cols: u32, is_made: bool) -> Option<Self> {
        let chunk_tiles = match bits {
            2 => 16,
            3 | 4 => 8,
            _ => 4,
        };
        let rings = WARPS * CHUNKS * (chunk_tiles * (bits * 64 + 16) + 8);
        let groups = cols.div_ceil(GROUP as u32);
        let vector = ((groups + 4) & !1).checked_mul(GROUP as u32 + 8)?;
        let fixed = vectors.checked_mul(vector)?.checked_add(rings + 4 * Entering::MOST_NORMS)?;
        let tile_row = groups.checked_mul(vectors)?.checked_mul(4 * TILE_ROWS as u32)?;
        let values = if is_made { Entering::values_bytes(cols)? } else { 0 };
        Some(Room { fixed, values, tile_row, vectors })
    }

    /// Bytes, with so many tile rows in a pass.
    fn bytes(&self, pass_tile_rows: u32) -> Option<u32> {
        let kept_rows = pass_tile_rows.checked_mul(TILE_ROWS as u32 * self.vectors)?.min(32 * WARPS);
        let terms = self.tile_row.checked_mul(pass_tile_rows)?;
        self.fixed.checked_add(4 * BASE_NUMBERS * kept_rows)?.checked_add(self.values.max(terms))
    }

    /// How many of `tile_rows` tile rows make a pass, and the bytes that it takes, of so many that there are.
    fn fit(&self, tile_rows: u32, most_bytes: u32) -> Option<(u32, u32)> {
        let fits = |&rows: &u32| self.bytes(rows).is_some_and(|bytes| bytes <= most_bytes);
        let most_rows = (1..=tile_rows).take_while(fits).last()?;
        let pass_tile_rows = tile_rows.div_ceil(tile_rows.div_ceil(most_rows));
        Some((pass_tile_rows, self.bytes(pass_tile_rows)?))
    }
}
