//! `matvec.cu`: quantized matrix times one to eight vectors.

use super::entering::{Entering, EnteringKind};
use super::overlap::{allow_shared, overlapping};
use super::product::{CODED, Product, of_format};
use crate::device::Device;
use crate::error::Error;
use brooklet::kernels::quant::{Format, GROUP, TILE_ROWS};
use cudarc::driver::CudaFunction;

/// How many vectors a kernel takes.
const VECTORS: [u32; 4] = [1, 2, 4, 8];
/// What one vector may be made of, in the kernel itself.
const MADE: [EnteringKind; 4] = [EnteringKind::Plain, EnteringKind::Rms, EnteringKind::GatedRms, EnteringKind::SiluMultiply];
/// Warps of a block, one of which only has tiles copied.
const MOST_WARPS: u32 = 16;

/// The kernels of one format.
#[derive(Clone, Debug)]
struct Kernels {
    bits: u32,
    /// In the order of [`VECTORS`].
    rounded: Vec<CudaFunction>,
    /// In the order of [`MADE`].
    made: Vec<CudaFunction>,
}

/// Products of few vectors.
#[derive(Clone, Debug)]
pub struct Matvec {
    /// In the order of [`CODED`].
    formats: Vec<Kernels>,
    most_shared_bytes: u32,
}

impl Matvec {
    /// Loads the kernels.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/matvec.bin"))?;
        let mut most_shared_bytes = 0;
        let mut load = |name: String| {
            let function = module.function(&name)?;
            most_shared_bytes = allow_shared(device, &function)?;
            Ok(function)
        };
        let mut formats = Vec::new();
        for (_, bits) in CODED {
            let rounded = VECTORS.iter().map(|vectors| load(format!("matvec_{bits}_rounded_{vectors}"))).collect::<Result<_, Error>>()?;
            let made = MADE.iter().map(|kind| load(format!("matvec_{bits}_{}", kind.name()))).collect::<Result<_, Error>>()?;
            formats.push(Kernels { bits, rounded, made });
        }
        Ok(Matvec { formats, most_shared_bytes })
    }

    /// Whether one launch takes so many vectors.
    pub fn takes(vectors: u32) -> bool {
        VECTORS.contains(&vectors)
    }

    /// Whether one vector of this kind can be made and rounded in the product's own launch: its operands begin at multiples of 16 bytes, `cols` is
    /// a multiple of four, and there is one norm.
    pub fn makes(kind: EnteringKind, from: &Entering, cols: u32) -> bool {
        let aligned = [from.x, from.z, from.weight].iter().all(|address| address.number().is_multiple_of(16));
        MADE.contains(&kind) && aligned && cols.is_multiple_of(4) && from.norm_groups == 1
    }

    /// Multiplies `vectors` rounded vectors; [`Matvec::takes`] says how many there may be.
    pub fn run_rounded(&self, device: &Device, format: Format, vectors: u32, from: &Entering, product: &Product) -> Result<(), Error> {
        let kernels = of_format(&self.formats, format)?;
        let at = VECTORS.iter().position(|&v| v == vectors);
        let kernel = at.and_then(|at| kernels.rounded.get(at)).ok_or(Error::Launch { what: "this many vectors" })?;
        self.queue(device, kernel, kernels.bits, vectors, from, product)
    }

    /// Makes one vector, rounds it and multiplies it; [`Matvec::makes`] must allow it.
    pub fn run(&self, device: &Device, format: Format, kind: EnteringKind, from: &Entering, product: &Product) -> Result<(), Error> {
        let kernels = of_format(&self.formats, format)?;
        let at = MADE.iter().position(|&made| made == kind).filter(|_| Self::makes(kind, from, product.cols));
        let kernel = at.and_then(|at| kernels.made.get(at)).ok_or(Error::Launch { what: "a vector of this kind" })?;
        self.queue(device, kernel, kernels.bits, 1, from, product)
    }

    fn queue(
        &self,
        device: &Device,
        kernel: &CudaFunction,
        bits: u32,
        vectors: u32,
        from: &Entering,
        product: &Product,
    ) -> Result<(), Error> {
        let tile_rows = product.rows.div_ceil(TILE_ROWS as u32);
        let blocks = device.processors().min(tile_rows).max(1);
        let max_tile_rows = tile_rows.div_ceil(blocks);
        // As many warps as there is room for: each has a ring of its own.
        let fitting = (2..=MOST_WARPS).rev().find(|&warps| {
            let bytes = shared_bytes(bits, warps - 1, vectors, product.cols, max_tile_rows);
            bytes.is_some_and(|bytes| bytes <= self.most_shared_bytes)
        });
        let (Some(warps), true) = (fitting, tile_rows > 0) else { return Err(Error::Launch { what: "a product this wide" }) };
        let shared = shared_bytes(bits, warps - 1, vectors, product.cols, max_tile_rows).unwrap_or_default();
        overlapping!(device, kernel, (blocks, 1), warps * 32, shared, *product, *from, max_tile_rows)
    }
}

/// Shared memory of a block, in the order in which `matvec` of the kernels lays it out; `None` when that overflows.
fn shared_bytes(bits: u32, warps: u32, vectors: u32, cols: u32, max_tile_rows: u32) -> Option<u32> {
    let chunk_tiles = match bits {
        3 => 10,
        5 => 6,
        6 => 4,
        bits => 32 / bits,
    };
    let ring = 3 * chunk_tiles * (bits * 64 + 16) + 3 * 8 + 8;
    let groups = cols.div_ceil(GROUP as u32).checked_next_multiple_of(2)?;
    let vector = groups.checked_mul(32 + 8)?;
    let rows = max_tile_rows.checked_mul(64)?;
    let total = (warps * (ring + vectors * 128 + 4)).checked_add(vectors.checked_mul(vector)?)?;
    total.checked_add(rows.checked_mul(1 + vectors)?)?.checked_add(4 * groups)
}
