//! Q6: 6-bit codes through a table of 64, [`super::planes`].
//!
//! A tile is four lines with the lower four bits, as in Q4, and two with the upper two, 384 bytes.

use super::planes::Tile;
use super::{q4, q8};

/// Levels denser near zero and lopsided: the sign of the sub-scale and the shift turn them into four tables.
pub(super) const LEVELS: [i8; 64] = [
    -126, -119, -112, -106, -100, -94, -88, -83, -78, -73, -68, -64, -59, -55, -51, -47, -44, -40, -37, -34, -31, -28, -25, -22, -19, -17,
    -14, -11, -9, -6, -4, -2, 1, 3, 6, 8, 11, 13, 16, 18, 21, 24, 27, 30, 33, 36, 40, 43, 47, 50, 54, 59, 63, 67, 72, 77, 82, 88, 93, 99,
    105, 112, 118, 125,
];
/// The shift that goes with [`LEVELS`].
pub(super) const SHIFT: i8 = 1;

/// The table as 4-bit look-ups want it.
#[inline(always)]
pub(crate) fn tables(levels: &[i8]) -> [[i8; 16]; 4] {
    let mut tables = [[0; 16]; 4];
    for (table, &level) in tables.as_flattened_mut().iter_mut().zip(levels) {
        *table = level;
    }
    tables
}

/// Expands a tile's codes through `tables`, by their upper two bits, into the layout of a Q8 tile.
#[inline(always)]
pub(crate) fn expand(tile: &Tile<6>, tables: &[[i8; 16]; 4], expand_q4: impl Fn(&q4::Tile, &[i8; 16], &mut q8::Tile), out: &mut q8::Tile) {
    let [low @ .., high_first, high_second] = tile;
    let high = [high_first, high_second];
    let mut quarter = [[0; 64]; 8];
    expand_q4(low, &tables[0], out);
    for (number, table) in (0u8..).zip(tables).skip(1) {
        expand_q4(low, table, &mut quarter);
        for (line, (out, quarter)) in out.iter_mut().zip(&quarter).enumerate() {
            let (high, bits, want) = (high[line / 4], 3u8 << (line % 4 * 2), number << (line % 4 * 2));
            for i in 0..64 {
                // Masks instead of branches: the compiler makes vectors of them.
                let takes = if high[i] & bits == want { -1 } else { 0 };
                out[i] ^= (out[i] ^ quarter[i]) & takes;
            }
        }
    }
}
