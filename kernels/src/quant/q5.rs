//! Q5: 5-bit codes through a table of 32, [`super::planes`].
//!
//! A tile is four lines with the lower four bits, as in Q4, and one with the highest, 320 bytes.

use super::planes::Tile;
use super::{q4, q8};

/// Levels denser near zero and lopsided: the sign of the sub-scale and the shift turn them into four tables.
pub(super) const LEVELS: [i8; 32] = [
    -126, -112, -100, -88, -78, -68, -59, -51, -44, -37, -31, -25, -19, -14, -9, -4, 1, 6, 11, 17, 22, 28, 34, 41, 49, 57, 66, 75, 86, 97,
    110, 124,
];
/// The shift that goes with [`LEVELS`].
pub(super) const SHIFT: i8 = 2;

/// The table as 4-bit look-ups want it.
#[inline(always)]
pub(crate) fn tables(levels: &[i8]) -> [[i8; 16]; 2] {
    let mut tables = [[0; 16]; 2];
    for (table, &level) in tables.as_flattened_mut().iter_mut().zip(levels) {
        *table = level;
    }
    tables
}

/// Expands a tile's codes through `tables`, by their highest bit, into the layout of a Q8 tile.
#[inline(always)]
pub(crate) fn expand(tile: &Tile<5>, tables: &[[i8; 16]; 2], expand_q4: impl Fn(&q4::Tile, &[i8; 16], &mut q8::Tile), out: &mut q8::Tile) {
    let [low @ .., high] = tile;
    let mut upper = [[0; 64]; 8];
    expand_q4(low, &tables[0], out);
    expand_q4(low, &tables[1], &mut upper);
    for (line, (out, upper)) in out.iter_mut().zip(&upper).enumerate() {
        let bit = 1u8 << line;
        for i in 0..64 {
            // Masks instead of branches: the compiler makes vectors of them.
            let takes = if high[i] & bit == 0 { 0 } else { -1 };
            out[i] ^= (out[i] ^ upper[i]) & takes;
        }
    }
}
