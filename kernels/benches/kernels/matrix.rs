//! Matrices to multiply with.

use crate::numbers::hash;
use brooklet_kernels::quant::{Format, NONLINEAR_SHIFT, NONLINEAR_TABLE, default_table, pack_f32, pack_planes, pack_q4, pack_q8};

/// A matrix of random codes, from a 64-byte boundary on.
pub(crate) fn matrix(format: Format, rows: usize, cols: usize) -> Vec<[u64; 8]> {
    let len = format.matrix_bytes(rows, cols).expect("a small matrix");
    let mut lines = vec![[0u64; 8]; len.div_ceil(64)];
    let bytes = &mut bytemuck::cast_slice_mut(&mut lines)[..len];
    let noise = |r: usize, c: usize| hash((r * cols + c) as u32);
    let (row_scale, sub_scale) = (|_: usize| 0.001, |r: usize, g: usize| (1 + noise(r, g) % 127) as i8);
    match format {
        Format::Q4 => pack_q4(rows, cols, &NONLINEAR_TABLE, NONLINEAR_SHIFT, row_scale, sub_scale, |r, c| noise(r, c) as u8 & 15, bytes),
        Format::Q8 => pack_q8(rows, cols, row_scale, sub_scale, |r, c| (noise(r, c) % 255) as u8 as i8, bytes),
        Format::Q3 | Format::Q5 | Format::Q6 | Format::T2 => {
            let table = default_table(format).expect("a format with a table");
            pack_planes(format, rows, cols, table, row_scale, sub_scale, |r, c| noise(r, c) as u8 % table.0.len() as u8, bytes);
        }
        _ => pack_f32(rows, cols, |r, c| noise(r, c) as i32 as f32 * 1e-9, bytes),
    }
    lines
}
