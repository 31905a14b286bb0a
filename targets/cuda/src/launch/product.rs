//! A product, and what becomes of it (`product.cuh`); the quantized formats by number.

use crate::arena::Address;
use crate::error::Error;
use brooklet::kernels::quant::Format;
use cudarc::driver::DeviceRepr;

/// `out[v][row] = residual[v][row] + scale * (sum of row + bias[row])`. `struct Product` of the kernels.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Product {
    /// The matrix's section of the file, as it lies.
    pub matrix: Address,
    /// (rows), or null.
    pub bias: Address,
    /// (vectors, rows), or null; may be `out`.
    pub residual: Address,
    /// (vectors, rows)
    pub out: Address,
    /// Null, or where a 0 says to change nothing.
    pub gate: Address,
    /// Rows of the matrix.
    pub rows: u32,
    /// Its columns.
    pub cols: u32,
    /// Numbers from one vector of `out` to the next.
    pub out_stride: u32,
    /// The same of `residual`.
    pub residual_stride: u32,
    /// Factor.
    pub scale: f32,
}

// SAFETY: the same fields in the same order as the kernels' struct, whose size is checked below.
unsafe impl DeviceRepr for Product {}

const _: () = assert!(size_of::<Product>() == 64);

/// Most taps of a convolution that a product's rows can go through.
pub const MOST_TAPS: u32 = 4;

/// What a step of one token does to a product's rows before they are stored. `struct After` of the kernels.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct After {
    /// (taps, conv_channels)
    pub conv_weight: Address,
    /// (conv_channels), or null.
    pub conv_bias: Address,
    /// (taps - 1, conv_channels) of each stream, oldest first.
    pub conv_state: Address,
    /// Bytes from stream to stream.
    pub conv_state_stride: u64,
    /// Row of the first channel.
    pub conv_first: u32,
    /// Channels; 0 for no convolution.
    pub conv_channels: u32,
    /// Taps, up to [`MOST_TAPS`].
    pub taps: u32,
    /// Whether SiLU follows the convolution.
    pub has_silu: u32,
    /// Outputs are bounded softly by it, if it is above 0.
    pub cap: f32,
}

// SAFETY: the same fields in the same order as the kernels' struct, whose size is checked below.
unsafe impl DeviceRepr for After {}

const _: () = assert!(size_of::<After>() == 56);

/// The quantized formats and the bits of their codes: the number in the kernels' names.
pub(super) const CODED: [(Format, u32); 6] =
    [(Format::T2, 2), (Format::Q3, 3), (Format::Q4, 4), (Format::Q5, 5), (Format::Q6, 6), (Format::Q8, 8)];

/// The thing of a list in the order of [`CODED`] that is for a format.
pub(super) fn of_format<T>(all: &[T], format: Format) -> Result<&T, Error> {
    let at = CODED.iter().position(|&(coded, _)| coded == format);
    at.and_then(|at| all.get(at)).ok_or(Error::Launch { what: "this format" })
}
