//! Q3: 3-bit codes through a table of 8, [`super::planes`].
//!
//! A tile is two lines with the lower two bits and one with the highest, 192 bytes.

use super::planes::Tile;
use super::{q4, q8};

/// Eight levels, denser near zero and lopsided: the sign of the sub-scale and the shift turn it into four tables.
pub(super) const LEVELS: [i8; 8] = [-100, -64, -38, -14, 10, 35, 67, 114];
/// The shift that goes with [`LEVELS`].
pub(super) const SHIFT: i8 = 13;

/// The table as a 4-bit look-up wants it.
#[inline(always)]
pub(crate) fn table(levels: &[i8]) -> [i8; 16] {
    let mut table = [0; 16];
    for (table, &level) in table.iter_mut().zip(levels) {
        *table = level;
    }
    table
}

/// Expands a tile's codes through [`table`] into the layout of a Q8 tile, as 4-bit codes.
#[inline(always)]
pub(crate) fn expand(tile: &Tile<3>, table: &[i8; 16], expand_q4: impl Fn(&q4::Tile, &[i8; 16], &mut q8::Tile), out: &mut q8::Tile) {
    let [low @ .., high] = tile;
    let mut nibbles = [[0; 64]; 4];
    for (word, nibbles) in nibbles.iter_mut().enumerate() {
        let low = &low[word / 2];
        for i in 0..64 {
            let (low, high) = (low[i] >> (word % 2 * 4), high[i] >> (2 * word));
            nibbles[i] = low & 3 | (high & 1) << 2 | (low & 12) << 2 | (high & 2) << 5;
        }
    }
    expand_q4(&nibbles, table, out);
}
