//! T2: `weight = row_scale * factor * (code - 1)`, code in 0..4. Weights that were trained as -1, 0 and 1 are kept as they are; others take the
//! fourth level too, on the side of zero that a group's signed factor gives it.
//!
//! A tile is two lines of four codes a byte ([`super::planes`]), 128 bytes.

use super::planes::Tile;
use super::q8;

/// Value of each code.
pub(crate) const LEVELS: [i8; 4] = [-1, 0, 1, 2];

/// Expands a tile's codes into the layout of a Q8 tile.
#[inline(always)]
pub(crate) fn expand(tile: &Tile<2>, out: &mut q8::Tile) {
    for (words, out) in tile.iter().zip(out.as_chunks_mut::<4>().0) {
        for (quarter, out) in out.iter_mut().enumerate() {
            for i in 0..64 {
                out[i] = (words[i] >> (2 * quarter) & 3) as i8 - 1;
            }
        }
    }
}
