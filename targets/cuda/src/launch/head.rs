//! `head.cu`: the next token from the outputs.

use super::launch;
use crate::arena::Address;
use crate::device::Device;
use crate::error::Error;
use cudarc::driver::{CudaFunction, DeviceRepr};

/// Most candidates of a draw.
pub const MOST_CANDIDATES: u32 = 1024;

/// How to draw. `struct Draw` of the kernels.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Draw {
    /// Divides the outputs; 0 takes the likeliest.
    pub temperature: f32,
    /// Of the candidates, only the likeliest that together have this probability.
    pub top_p: f32,
    /// Only this many of the likeliest, at most [`MOST_CANDIDATES`].
    pub top_k: u32,
    /// Only the first so many outputs can be chosen.
    pub known: u32,
}

// SAFETY: the same fields in the same order as the kernels' struct.
unsafe impl DeviceRepr for Draw {}

/// Chooses tokens.
#[derive(Clone, Debug)]
pub struct Head {
    likeliest: CudaFunction,
    draw: CudaFunction,
}

impl Head {
    /// Loads the kernels.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/head.bin"))?;
        Ok(Head { likeliest: module.function("head_likeliest")?, draw: module.function("head_draw")? })
    }

    /// The largest of the first `known` outputs of each row, the first of equals, to `tokens` (rows).
    pub fn likeliest(&self, device: &Device, rows: u32, outputs: Address, stride: u32, known: u32, tokens: Address) -> Result<(), Error> {
        launch!(device, &self.likeliest, (rows, 1, 1), 1024, 0, outputs, stride, known, tokens)
    }

    /// Draws for each row; `random` (rows) are states of SplitMix64, one `u64` each, and go one step further.
    pub fn draw(
        &self,
        device: &Device,
        rows: u32,
        outputs: Address,
        stride: u32,
        how: &Draw,
        random: Address,
        tokens: Address,
    ) -> Result<(), Error> {
        if !(1..=MOST_CANDIDATES).contains(&how.top_k) {
            return Err(Error::Launch { what: "a draw among none or more than 1024 candidates" });
        }
        launch!(device, &self.draw, (rows, 1, 1), 1024, 0, outputs, stride, *how, random, tokens)
    }
}
