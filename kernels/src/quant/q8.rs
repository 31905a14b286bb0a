//! Q8: `weight = row_scale * sub_scale * code`, code and sub-scale in -127..=127.
//!
//! A word is four consecutive columns of one row; a tile is 8 words x 16 rows = 512 bytes.

use super::{GROUP, MatrixError, TILE_ROWS, cast, split_scales, split_scales_mut, tile_index};

/// One tile: (8 words of 4 columns, 16 rows x 4 columns).
pub(crate) type Tile = [[i8; 4 * TILE_ROWS]; GROUP / 4];

/// The planes of a Q8 matrix.
#[derive(Clone, Copy, Debug)]
pub struct Q8<'a> {
    /// (tile_rows) x 16.
    pub row_scales: &'a [[f32; TILE_ROWS]],
    /// (tile_rows, groups) x 16.
    pub sub_scales: &'a [[i8; TILE_ROWS]],
    /// (tile_rows, groups).
    pub tiles: &'a [Tile],
}

impl<'a> Q8<'a> {
    pub(super) fn from_bytes(rows: usize, cols: usize, bytes: &'a [u8]) -> Result<Self, MatrixError> {
        let (row_scales, sub_scales, codes) = split_scales(rows, cols, bytes)?;
        Ok(Q8 { row_scales, sub_scales, tiles: cast(codes)? })
    }

    pub(super) fn unpack_row(&self, tile_row: usize, lane: usize, groups: usize, out: &mut [f32]) {
        let Some(row_scale) = self.row_scales.get(tile_row).map(|s| s[lane]) else { return };
        let first = tile_row * groups;
        for (group, out) in out.chunks_mut(GROUP).enumerate() {
            let (Some(tile), Some(sub_scale)) = (self.tiles.get(first + group), self.sub_scales.get(first + group)) else { return };
            for (col, out) in (0..GROUP).zip(out) {
                let code = tile[col / 4][lane * 4 + col % 4];
                *out = (i32::from(code) * i32::from(sub_scale[lane])) as f32 * row_scale;
            }
        }
    }
}

/// Writes a Q8 matrix into `out` ([`super::Format::matrix_bytes`] bytes) from its codes and scales.
pub fn pack_q8(
    rows: usize,
    cols: usize,
    row_scale: impl Fn(usize) -> f32,
    sub_scale: impl Fn(usize, usize) -> i8,
    code: impl Fn(usize, usize) -> i8,
    out: &mut [u8],
) {
    out.fill(0);
    let (row_scales, sub_scales, codes) = split_scales_mut(rows, cols, out);
    let (row_scales, _) = row_scales.as_chunks_mut::<4>();
    for row in 0..rows {
        let lane = row % TILE_ROWS;
        row_scales[row] = row_scale(row).to_le_bytes();
        for group in 0..cols.div_ceil(GROUP) {
            let tile = tile_index(row, group, cols);
            sub_scales[tile * TILE_ROWS + lane] = sub_scale(row, group) as u8;
            for col in group * GROUP..cols.min((group + 1) * GROUP) {
                let in_group = col % GROUP;
                let at = tile * TILE_ROWS * GROUP + in_group / 4 * 4 * TILE_ROWS + lane * 4 + in_group % 4;
                codes[at] = code(row, col) as u8;
            }
        }
    }
}
