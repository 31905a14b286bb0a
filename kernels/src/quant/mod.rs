//! How a matrix lies in memory: one layout for every target, used where it lies.
//!
//! A matrix `(rows, cols)` is cut into tiles of 16 rows x 32 columns, ordered by tile row, then by column group. Inside a tile
//! the unit is a 32-bit *word of one row*; the words of the 16 rows follow each other, then the next columns' words. One load
//! of any vector width therefore holds the same columns of neighbouring rows, and a sum over columns never crosses lanes.
//!
//! A *group* is 32 columns of one row, and shares one 8-bit sub-scale; each row has one `f32` scale. Rows are padded to 16 and
//! columns to 32 with codes that count as zero. `docs/artifact-format.md` gives the bytes.

use core::ops::Range;

mod float;
#[cfg(feature = "planes")]
pub(crate) mod planes;
#[cfg(feature = "planes")]
pub(crate) mod q3;
mod q4;
#[cfg(feature = "planes")]
pub(crate) mod q5;
#[cfg(feature = "planes")]
pub(crate) mod q6;
mod q8;
#[cfg(feature = "planes")]
pub(crate) mod t2;

pub use float::{pack_f16, pack_f32};
#[cfg(feature = "planes")]
pub use planes::{Coded, Planes, default_table, pack_planes};
pub use q4::{LINEAR_TABLE, NONLINEAR_SHIFT, NONLINEAR_TABLE, Q4, pack_q4};
pub use q8::{Q8, pack_q8};

/// Rows of a tile: one per lane.
pub const TILE_ROWS: usize = 16;
/// Columns of a group: they share one sub-scale, and one activation scale.
pub const GROUP: usize = 32;

/// How the weights of a matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 32-bit floats.
    F32,
    /// IEEE half precision (finite values only).
    F16,
    /// 8-bit codes: 8.25 bits per weight and 4 bytes per row.
    Q8,
    /// 4-bit codes through a table of 16: 4.25 bits per weight and 4 bytes per row.
    Q4,
    /// 3-bit codes through a table of 8: 3.25 bits per weight and 4 bytes per row.
    Q3,
    /// 5-bit codes through a table of 32: 5.25 bits per weight and 4 bytes per row.
    Q5,
    /// 6-bit codes through a table of 64: 6.25 bits per weight and 4 bytes per row.
    Q6,
    /// -1, 0, 1 or 2 times a signed factor, in 2 bits: 2.25 bits per weight and 4 bytes per row. Exact for weights trained as -1, 0 and 1.
    T2,
}

impl Format {
    /// Every format, from coarse to fine.
    pub const ALL: [Format; 8] = [Format::T2, Format::Q3, Format::Q4, Format::Q5, Format::Q6, Format::Q8, Format::F16, Format::F32];

    /// The name used in files, options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::Q8 => "q8",
            Format::Q4 => "q4",
            Format::Q3 => "q3",
            Format::Q5 => "q5",
            Format::Q6 => "q6",
            Format::T2 => "t2",
        }
    }

    /// Bytes of a matrix of this format, padding included; `None` when that overflows.
    pub fn matrix_bytes(self, rows: usize, cols: usize) -> Option<usize> {
        let tile_rows = rows.div_ceil(TILE_ROWS);
        let groups = cols.div_ceil(GROUP);
        let tiles = tile_rows.checked_mul(groups)?;
        let weights = tiles.checked_mul(TILE_ROWS * GROUP)?;
        let row_scales = tile_rows.checked_mul(TILE_ROWS * 4)?;
        // Sub-scales end on a 64-byte boundary so that the codes start on one.
        let sub_scales = tiles.checked_mul(TILE_ROWS)?.checked_next_multiple_of(64)?;
        let scales = row_scales.checked_add(sub_scales)?;
        let coded = |bits: usize, table_bytes: usize| scales.checked_add(weights / 8 * bits)?.checked_add(table_bytes);
        match self {
            Format::F32 => weights.checked_mul(4),
            Format::F16 => weights.checked_mul(2),
            Format::Q8 => coded(8, 0),
            Format::Q4 => coded(4, table_bytes(4)),
            Format::Q3 => coded(3, table_bytes(3)),
            Format::Q5 => coded(5, table_bytes(5)),
            Format::Q6 => coded(6, table_bytes(6)),
            Format::T2 => coded(2, 0),
        }
    }

    /// Bytes of the table of levels, its shift and padding, before a matrix's row scales: 0 where levels need none.
    pub fn table_bytes(self) -> usize {
        match self {
            Format::Q3 => table_bytes(3),
            Format::Q4 => table_bytes(4),
            Format::Q5 => table_bytes(5),
            Format::Q6 => table_bytes(6),
            Format::F32 | Format::F16 | Format::Q8 | Format::T2 => 0,
        }
    }

    /// Whether activations enter as int8 per group (or as `f32`).
    pub fn is_quantized(self) -> bool {
        !matches!(self, Format::F32 | Format::F16)
    }
}

/// Why bytes are not a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixError {
    /// The byte count is not [`Format::matrix_bytes`] of the shape.
    Length,
    /// The bytes do not start on a 4-byte boundary.
    Alignment,
    /// A code table holds values that do not fit in 8 bits once shifted.
    Table,
    /// This build leaves the format out: it is there with the feature `planes`.
    Format,
}

/// A matrix `(rows, cols)`, borrowed from where it lies.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// Rows: outputs.
    pub rows: usize,
    /// Columns: inputs.
    pub cols: usize,
    /// The weights, by storage format.
    pub weights: Weights<'a>,
}

/// The weights of a [`Matrix`], cut into tiles.
#[derive(Clone, Copy, Debug)]
pub enum Weights<'a> {
    /// (tile_rows, groups * 32) words of 16 rows.
    F32(&'a [[f32; TILE_ROWS]]),
    /// (tile_rows, groups * 32) words of 16 rows, as half-precision bits.
    F16(&'a [[u16; TILE_ROWS]]),
    /// 8-bit codes.
    Q8(Q8<'a>),
    /// 4-bit codes.
    Q4(Q4<'a>),
    /// Codes of 2, 3, 5 or 6 bits.
    #[cfg(feature = "planes")]
    Planes(Planes<'a>),
}

impl<'a> Matrix<'a> {
    /// Views `bytes` as a matrix; checks their number, their alignment and the code table.
    pub fn from_bytes(format: Format, rows: usize, cols: usize, bytes: &'a [u8]) -> Result<Self, MatrixError> {
        if format.matrix_bytes(rows, cols) != Some(bytes.len()) {
            return Err(MatrixError::Length);
        }
        let weights = match format {
            Format::F32 => Weights::F32(cast(bytes)?),
            Format::F16 => Weights::F16(cast(bytes)?),
            Format::Q8 => Weights::Q8(Q8::from_bytes(rows, cols, bytes)?),
            Format::Q4 => Weights::Q4(Q4::from_bytes(rows, cols, bytes)?),
            #[cfg(feature = "planes")]
            Format::Q3 | Format::Q5 | Format::Q6 | Format::T2 => Weights::Planes(Planes::from_bytes(format, rows, cols, bytes)?),
            #[cfg(not(feature = "planes"))]
            Format::Q3 | Format::Q5 | Format::Q6 | Format::T2 => return Err(MatrixError::Format),
        };
        Ok(Matrix { rows, cols, weights })
    }

    /// Number of column groups.
    pub fn groups(&self) -> usize {
        self.cols.div_ceil(GROUP)
    }

    /// Number of tile rows, of 16 rows each.
    pub fn tile_rows(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// The rows of some tile rows, as a matrix; `None` if there are not as many.
    pub fn part(&self, tile_rows: Range<usize>) -> Option<Matrix<'a>> {
        let groups = self.groups();
        let per_group = tile_rows.start.checked_mul(groups)?..tile_rows.end.checked_mul(groups)?;
        let words = tile_rows.start.checked_mul(groups * GROUP)?..tile_rows.end.checked_mul(groups * GROUP)?;
        let rows = self.rows.min(tile_rows.end.checked_mul(TILE_ROWS)?).checked_sub(tile_rows.start.checked_mul(TILE_ROWS)?)?;
        let weights = match self.weights {
            Weights::F32(all) => Weights::F32(all.get(words)?),
            Weights::F16(all) => Weights::F16(all.get(words)?),
            Weights::Q8(q) => Weights::Q8(Q8 {
                row_scales: q.row_scales.get(tile_rows)?,
                sub_scales: q.sub_scales.get(per_group.clone())?,
                tiles: q.tiles.get(per_group)?,
            }),
            Weights::Q4(q) => Weights::Q4(Q4 {
                row_scales: q.row_scales.get(tile_rows)?,
                sub_scales: q.sub_scales.get(per_group.clone())?,
                tiles: q.tiles.get(per_group)?,
                ..q
            }),
            #[cfg(feature = "planes")]
            Weights::Planes(q) => Weights::Planes(q.part(tile_rows, per_group)?),
        };
        Some(Matrix { rows, cols: self.cols, weights })
    }

    /// Writes row `row` as floats into `out` (up to `cols` values): the oracle of every format, and the embedding look-up.
    pub fn unpack_row(&self, row: usize, out: &mut [f32]) {
        let (tile_row, lane) = (row / TILE_ROWS, row % TILE_ROWS);
        let groups = self.groups();
        let at = tile_row * groups;
        match &self.weights {
            Weights::F32(words) => {
                for (out, word) in out.iter_mut().zip(words.get(at * GROUP..).unwrap_or_default()) {
                    *out = word[lane];
                }
            }
            Weights::F16(words) => {
                for (out, word) in out.iter_mut().zip(words.get(at * GROUP..).unwrap_or_default()) {
                    *out = float::f16_to_f32(word[lane]);
                }
            }
            Weights::Q8(q) => q.unpack_row(tile_row, lane, groups, out),
            Weights::Q4(q) => q.unpack_row(tile_row, lane, groups, out),
            #[cfg(feature = "planes")]
            Weights::Planes(q) => q.unpack_row(tile_row, lane, groups, out),
        }
    }

    /// Whether every scale stored beside the codes is a finite number.
    pub fn scales_are_finite(&self) -> bool {
        let row_scales = match &self.weights {
            Weights::F32(_) | Weights::F16(_) => return true,
            Weights::Q8(q) => q.row_scales,
            Weights::Q4(q) => q.row_scales,
            #[cfg(feature = "planes")]
            Weights::Planes(q) => q.row_scales(),
        };
        row_scales.as_flattened().iter().all(|s| s.is_finite())
    }
}

pub(crate) use float::f16_to_f32;
pub(crate) use q4::expand as expand_q4;

/// Bytes of a table for codes of so many bits, its shift and padding, at the start of the section.
const fn table_bytes(bits: usize) -> usize {
    ((1usize << bits) + 1).next_multiple_of(64)
}

fn cast<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> Result<&[T], MatrixError> {
    bytemuck::try_cast_slice(bytes).map_err(|_| MatrixError::Alignment)
}

/// Splits `[row scales][sub-scales, padded to 64 bytes][codes]`.
fn split_scales(rows: usize, cols: usize, bytes: &[u8]) -> Result<(&[[f32; TILE_ROWS]], &[[i8; TILE_ROWS]], &[u8]), MatrixError> {
    let tile_rows = rows.div_ceil(TILE_ROWS);
    let tiles = tile_rows * cols.div_ceil(GROUP);
    let (row_scales, rest) = bytes.split_at_checked(tile_rows * TILE_ROWS * 4).ok_or(MatrixError::Length)?;
    let sub_scales_bytes = tiles * TILE_ROWS;
    let (sub_scales, codes) = rest.split_at_checked(sub_scales_bytes.next_multiple_of(64)).ok_or(MatrixError::Length)?;
    let sub_scales = sub_scales.get(..sub_scales_bytes).ok_or(MatrixError::Length)?;
    Ok((cast(row_scales)?, cast(sub_scales)?, codes))
}

/// The mutable twin of [`split_scales`], for the packers.
fn split_scales_mut(rows: usize, cols: usize, bytes: &mut [u8]) -> (&mut [u8], &mut [u8], &mut [u8]) {
    let tile_rows = rows.div_ceil(TILE_ROWS);
    let tiles = tile_rows * cols.div_ceil(GROUP);
    let (row_scales, rest) = bytes.split_at_mut(tile_rows * TILE_ROWS * 4);
    let (sub_scales, codes) = rest.split_at_mut((tiles * TILE_ROWS).next_multiple_of(64));
    (row_scales, sub_scales, codes)
}

/// Position of the tile `(row / 16, col / 32)` in its plane.
fn tile_index(row: usize, group: usize, cols: usize) -> usize {
    row / TILE_ROWS * cols.div_ceil(GROUP) + group
}

#[cfg(test)]
mod tests;
