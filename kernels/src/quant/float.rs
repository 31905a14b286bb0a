//! F32 and F16 matrices: tiles of 16 rows, one word per column.

use super::{GROUP, TILE_ROWS};

/// 2^112: moves the exponent bias of half precision to that of single precision.
const REBIAS: f32 = f32::from_bits((112 + 127) << 23);

/// Half to single precision, exact for every finite value (the packers refuse the others).
#[inline(always)]
pub(crate) fn f16_to_f32(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let magnitude = f32::from_bits(u32::from(half & 0x7fff) << 13) * REBIAS;
    f32::from_bits(magnitude.to_bits() | sign)
}

/// Writes a matrix of `f32` into `out` ([`super::Format::matrix_bytes`] bytes); `weight(row, col)` gives its elements.
pub fn pack_f32(rows: usize, cols: usize, weight: impl Fn(usize, usize) -> f32, out: &mut [u8]) {
    pack(rows, cols, weight, out, |w, bytes: &mut [u8; 4]| *bytes = w.to_le_bytes());
}

/// Writes a matrix of half-precision floats into `out`; values beyond the format's range are clamped to its largest.
pub fn pack_f16(rows: usize, cols: usize, weight: impl Fn(usize, usize) -> f32, out: &mut [u8]) {
    pack(rows, cols, weight, out, |w, bytes: &mut [u8; 2]| {
        let largest = half::f16::MAX.to_f32();
        *bytes = half::f16::from_f32(w.clamp(-largest, largest)).to_le_bytes();
    });
}

fn pack<const N: usize>(rows: usize, cols: usize, weight: impl Fn(usize, usize) -> f32, out: &mut [u8], write: impl Fn(f32, &mut [u8; N])) {
    out.fill(0);
    let (elements, _) = out.as_chunks_mut::<N>();
    let cols_padded = cols.next_multiple_of(GROUP);
    for row in 0..rows {
        for col in 0..cols {
            let at = (row / TILE_ROWS * cols_padded + col) * TILE_ROWS + row % TILE_ROWS;
            write(weight(row, col), &mut elements[at]);
        }
    }
}
