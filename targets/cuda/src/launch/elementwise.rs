//! `elementwise.cu`: sums, products, copies, constants, activation functions, Hadamard transforms.

use super::{launch, threads};
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use brooklet::ops::{Activation, Span};
use cudarc::driver::CudaFunction;

/// Operations on each number of a vector.
#[derive(Clone, Debug)]
pub struct Elementwise {
    pairwise: CudaFunction,
    pairwise_by_four: CudaFunction,
    activate: CudaFunction,
    hadamard: CudaFunction,
}

/// What happens to `x`; the operand is `y`.
#[derive(Clone, Copy, Debug)]
pub enum Pairwise {
    /// `x + scale * y`
    Add(Span, f32),
    /// `x * y`
    Multiply(Span),
    /// `y`
    Copy(Span),
    /// `silu(x) * y`
    SiluMultiply(Span),
    /// `x * y`, one number of `y` for a stretch of `x`.
    ScaleBy(Span),
    /// The number.
    Fill(f32),
}

/// A function's number and parameter, as kernels know them.
pub(crate) fn activation_number(f: Activation) -> (u32, f32) {
    match f {
        Activation::Silu => (0, 0.0),
        Activation::Sigmoid => (1, 0.0),
        Activation::Tanh => (2, 0.0),
        Activation::ReluSquared => (3, 0.0),
        Activation::Gelu => (4, 0.0),
        Activation::GeluTanh => (5, 0.0),
        Activation::Scale { scale } => (6, scale),
        Activation::SoftCap { cap } => (7, cap),
        Activation::Relu => (8, 0.0),
        Activation::Square => (9, 0.0),
        Activation::Sqrt => (10, 0.0),
    }
}

impl Elementwise {
    /// Loads the kernels.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/elementwise.bin"))?;
        let function = |name| module.function(name);
        Ok(Elementwise {
            pairwise: function("pairwise")?,
            pairwise_by_four: function("pairwise_by_four")?,
            activate: function("activate")?,
            hadamard: function("hadamard")?,
        })
    }

    /// Changes operand `x`.
    pub fn pairwise(&self, device: &Device, batch: &Batch, x: Span, what: Pairwise) -> Result<(), Error> {
        let (kind, y, scale) = match what {
            Pairwise::Add(y, scale) => (0u32, y, scale),
            Pairwise::Multiply(y) => (1, y, 0.0),
            Pairwise::Copy(y) => (2, y, 0.0),
            Pairwise::SiluMultiply(y) => (3, y, 0.0),
            Pairwise::ScaleBy(y) => (4, y, 0.0),
            Pairwise::Fill(value) => (5, x, value),
        };
        let is_aligned =
            [x.at, x.len, y.at, batch.stride].iter().all(|at| at.is_multiple_of(4)) && batch.frames.number().is_multiple_of(16);
        if is_aligned && kind != 4 {
            let grid = (x.len.div_ceil(512), batch.rows(), 1);
            return launch!(device, &self.pairwise_by_four, grid, 128, 0, *batch, kind, x.at, y.at, x.len, scale);
        }
        let width = (x.len / y.len.max(1)).max(1);
        let grid = (x.len.div_ceil(256), batch.rows(), 1);
        launch!(device, &self.pairwise, grid, 256, 0, *batch, kind, x.at, y.at, x.len, width, scale)
    }

    /// `x <- f(x)`.
    pub fn activate(&self, device: &Device, batch: &Batch, x: Span, f: Activation) -> Result<(), Error> {
        let (f, parameter) = activation_number(f);
        let grid = (x.len.div_ceil(256), batch.rows(), 1);
        launch!(device, &self.activate, grid, 256, 0, *batch, f, parameter, x.at, x.len)
    }

    /// Walsh-Hadamard transform of blocks of `x`.
    pub fn hadamard(&self, device: &Device, batch: &Batch, x: Span, block: u32, scale: f32) -> Result<(), Error> {
        let grid = (x.len / block.max(1), batch.rows(), 1);
        launch!(device, &self.hadamard, grid, threads(block / 2, 512), 0, *batch, x.at, block, scale)
    }
}
