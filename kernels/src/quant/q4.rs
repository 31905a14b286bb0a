//! Q4: `weight = row_scale * sub_scale * (table[code] + shift * pick)`, code in 0..16.
//!
//! A word is eight consecutive columns of one row, columns 0-3 in the low nibbles of its four bytes and 4-7 in the high ones;
//! a tile is 4 words x 16 rows = 256 bytes. The sub-scale's byte holds a signed 7-bit factor in its upper bits and, in the
//! lowest, the pick between two tables: the second is the first plus `shift`, so that picking it only adds
//! `shift * sum(activations)` to the group's integer sum.

use super::{GROUP, MatrixError, TILE_ROWS, cast, q8, split_scales, split_scales_mut, table_bytes, tile_index};

/// Sixteen levels, denser near zero and lopsided: the sign of the sub-scale and the shift turn it into four tables.
pub const NONLINEAR_TABLE: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// The shift that goes with [`NONLINEAR_TABLE`].
pub const NONLINEAR_SHIFT: i8 = 4;
/// Sixteen even steps, for cores without a table look-up.
pub const LINEAR_TABLE: [i8; 16] = [-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7];

/// One tile: (4 words of 8 columns, 16 rows x 4 bytes).
pub(crate) type Tile = [[u8; 4 * TILE_ROWS]; GROUP / 8];

/// The planes of a Q4 matrix.
#[derive(Clone, Copy, Debug)]
pub struct Q4<'a> {
    /// Value of each code.
    pub table: &'a [i8; 16],
    /// What the second table adds to the first.
    pub shift: i8,
    /// (tile_rows) x 16.
    pub row_scales: &'a [[f32; TILE_ROWS]],
    /// (tile_rows, groups) x 16: signed factor in the upper 7 bits, table pick in the lowest.
    pub sub_scales: &'a [[i8; TILE_ROWS]],
    /// (tile_rows, groups).
    pub tiles: &'a [Tile],
}

impl<'a> Q4<'a> {
    pub(super) fn from_bytes(rows: usize, cols: usize, bytes: &'a [u8]) -> Result<Self, MatrixError> {
        let (head, planes) = bytes.split_at_checked(table_bytes(4)).ok_or(MatrixError::Length)?;
        let (table, rest) = cast::<i8>(head)?.split_first_chunk::<16>().ok_or(MatrixError::Length)?;
        let shift = rest.first().copied().ok_or(MatrixError::Length)?;
        if table.iter().any(|&level| level.checked_add(shift).is_none()) {
            return Err(MatrixError::Table);
        }
        let (row_scales, sub_scales, codes) = split_scales(rows, cols, planes)?;
        Ok(Q4 { table, shift, row_scales, sub_scales, tiles: cast(codes)? })
    }

    pub(super) fn unpack_row(&self, tile_row: usize, lane: usize, groups: usize, out: &mut [f32]) {
        let Some(row_scale) = self.row_scales.get(tile_row).map(|s| s[lane]) else { return };
        let first = tile_row * groups;
        for (group, out) in out.chunks_mut(GROUP).enumerate() {
            let (Some(tile), Some(sub_scale)) = (self.tiles.get(first + group), self.sub_scales.get(first + group)) else { return };
            let factor = i32::from(sub_scale[lane] >> 1);
            let shift = i32::from(sub_scale[lane] & 1) * i32::from(self.shift);
            for (col, out) in (0..GROUP).zip(out) {
                let byte = tile[col / 8][lane * 4 + col % 4];
                let code = if col % 8 < 4 { byte & 15 } else { byte >> 4 };
                *out = ((i32::from(self.table[usize::from(code)]) + shift) * factor) as f32 * row_scale;
            }
        }
    }
}

/// Expands a tile's codes through `table` into the layout of a Q8 tile.
#[inline(always)]
pub(crate) fn expand(tile: &Tile, table: &[i8; 16], out: &mut q8::Tile) {
    for (word, out) in tile.iter().zip(out.as_chunks_mut::<2>().0) {
        for i in 0..4 * TILE_ROWS {
            out[0][i] = table[usize::from(word[i] & 15)];
            out[1][i] = table[usize::from(word[i] >> 4)];
        }
    }
}

/// Writes a Q4 matrix into `out` ([`super::Format::matrix_bytes`] bytes) from its codes and scales.
///
/// `sub_scale(row, group)` gives the byte as stored. Padding columns take a sub-scale of the same group, but the activations
/// they meet are zero; padding rows have a row scale of zero.
pub fn pack_q4(
    rows: usize,
    cols: usize,
    table: &[i8; 16],
    shift: i8,
    row_scale: impl Fn(usize) -> f32,
    sub_scale: impl Fn(usize, usize) -> i8,
    code: impl Fn(usize, usize) -> u8,
    out: &mut [u8],
) {
    out.fill(0);
    let (head, planes) = out.split_at_mut(table_bytes(4));
    head[..16].copy_from_slice(bytemuck::cast_slice(table));
    head[16] = shift as u8;
    let (row_scales, sub_scales, codes) = split_scales_mut(rows, cols, planes);
    let (row_scales, _) = row_scales.as_chunks_mut::<4>();
    for row in 0..rows {
        let lane = row % TILE_ROWS;
        row_scales[row] = row_scale(row).to_le_bytes();
        for group in 0..cols.div_ceil(GROUP) {
            let tile = tile_index(row, group, cols);
            sub_scales[tile * TILE_ROWS + lane] = sub_scale(row, group) as u8;
            for col in group * GROUP..cols.min((group + 1) * GROUP) {
                let in_group = col % GROUP;
                let at = tile * TILE_ROWS * GROUP / 2 + in_group / 8 * 4 * TILE_ROWS + lane * 4 + in_group % 4;
                codes[at] |= (code(row, col) & 15) << (if in_group % 8 < 4 { 0 } else { 4 });
            }
        }
    }
}
