//! Matrix times vector by the DSP extension: eight rows at a time, group by group.

use super::group::{Group, PANEL, widen_q4, widen_q8};
use super::{q4, q8};
use crate::portable;
use crate::quant::{GROUP, LINEAR_TABLE, Matrix, NONLINEAR_TABLE, TILE_ROWS, Weights, expand_q4};
use crate::table::{Activations, Outputs};

/// Rows of a pass: what the registers hold sums for.
const PASS_ROWS: usize = TILE_ROWS / 2;

const ZEROS: [f32; PASS_ROWS] = [0.0; PASS_ROWS];
const ONES: [f32; PASS_ROWS] = [1.0; PASS_ROWS];

/// What a pass walks over: one half (eight rows) of every tile row, and a panel of groups of each. Its assembly knows the order.
#[repr(C)]
pub(super) struct Pass {
    /// Factor of each row, and bytes to that of the next tile row.
    row_scales: *const f32,
    row_scales_step: usize,
    /// Where the sums go.
    out: *mut f32,
    /// What the sums start from, and bytes to the next tile row's.
    start: *const f32,
    start_step: usize,
    out_end: *mut f32,
    /// Bytes from the last tile of the panel to the first of the next tile row's; the same for sub-scales.
    tiles_skip: usize,
    sub_scales_skip: usize,
    /// Columns of the panel in steps of 16.
    half_groups: usize,
    groups: *const Group,
    tiles: *const u8,
    sub_scales: *const i8,
    /// (256): both levels of a byte of 4-bit codes, each times 256, as 16-bit halves.
    levels: *const u32,
}

/// `out[t] = matrix * x[t]` for every vector `t`.
pub(crate) fn matmul(matrix: &Matrix<'_>, x: Activations<'_>, out: Outputs<'_>) {
    if fast(matrix, x, &mut *out.data, out.stride).is_none() {
        portable::matmul(matrix, x, out, expand_q4);
    }
}

/// `None` for what is left to the portable kernel: floats, and 4-bit codes through a table of the file's own.
#[inline(always)]
fn fast(matrix: &Matrix<'_>, x: Activations<'_>, out: &mut [f32], stride: usize) -> Option<()> {
    let Activations::Int8 { codes, scales, sums } = x else { return None };
    let groups = matrix.groups();
    let tiles = matrix.rows.div_ceil(TILE_ROWS) * groups;
    let (levels, shift, row_scales, sub_scales, tile_bytes, first_tile) = match &matrix.weights {
        Weights::Q8(q) => (None, 0, q.row_scales, q.sub_scales, 512, q.tiles.get(..tiles)?.as_ptr().cast::<u8>()),
        Weights::Q4(q) => {
            let levels = match q.table {
                &NONLINEAR_TABLE => &q4::NONLINEAR_LEVELS,
                &LINEAR_TABLE => &q4::LINEAR_LEVELS,
                _ => return None,
            };
            // `shift * sum` must fit in 16 bits.
            let shift = (-8..=8).contains(&q.shift).then_some(i32::from(q.shift))?;
            (Some(levels), shift, q.row_scales, q.sub_scales, 256, q.tiles.get(..tiles)?.as_ptr().cast::<u8>())
        }
        _ => return None,
    };
    let (row_scales, sub_scales) = (row_scales.get(..matrix.rows.div_ceil(TILE_ROWS))?.as_flattened(), sub_scales.get(..tiles)?.as_flattened());
    let per_vector = codes.as_chunks::<GROUP>().0.chunks_exact(groups).zip(scales.chunks_exact(groups)).zip(sums.chunks_exact(groups));
    for (((codes, scales), sums), out) in per_vector.zip(out.chunks_mut(stride)) {
        let out = out.get_mut(..matrix.rows)?;
        // Rows behind the last whole pass.
        let mut rest = ZEROS;
        let (whole, rest_out) = out.as_chunks_mut::<PASS_ROWS>();
        let mut panel = [Group::EMPTY; PANEL];
        let mut first = 0;
        while first < groups {
            let count = (groups - first).min(PANEL);
            let inputs = codes.iter().zip(scales).zip(sums).skip(first);
            for (group, ((codes, &scale), &sum)) in panel.iter_mut().zip(inputs) {
                match levels {
                    None => widen_q8(codes, scale, group),
                    Some(_) => widen_q4(codes, scale, shift.wrapping_mul(sum), group),
                }
            }
            let (is_first, is_last) = (first == 0, first + count == groups);
            let half_groups = if is_last { (matrix.cols - first * GROUP).div_ceil(GROUP / 2) } else { 2 * count };
            for half in 0..3 {
                // Lower halves of all tile rows, upper halves, the rest.
                let (row, passes, at) = match half {
                    0 => (0, whole.len().div_ceil(2), whole.as_mut_ptr()),
                    1 => (PASS_ROWS, whole.len() / 2, whole.get_mut(1..).unwrap_or_default().as_mut_ptr()),
                    _ => (whole.len() * PASS_ROWS, usize::from(!rest_out.is_empty()), &raw mut rest),
                };
                if passes == 0 {
                    continue;
                }
                let at = at.cast::<f32>();
                let tile = row / TILE_ROWS * groups + first;
                let (start, start_step) = if is_first { (ZEROS.as_ptr(), 0) } else { (at.cast_const(), 64) };
                let (row_scales, row_scales_step) = if is_last { (row_scales.get(row..)?.as_ptr(), 64) } else { (ONES.as_ptr(), 0) };
                let mut pass = Pass {
                    row_scales,
                    row_scales_step,
                    out: at,
                    start,
                    start_step,
                    out_end: at.wrapping_byte_add(64 * passes),
                    tiles_skip: (groups - count) * tile_bytes,
                    sub_scales_skip: (groups - count) * TILE_ROWS,
                    half_groups,
                    groups: panel.as_ptr(),
                    tiles: first_tile.wrapping_add(tile * tile_bytes + row % TILE_ROWS * 4),
                    sub_scales: sub_scales.as_ptr().wrapping_add(tile * TILE_ROWS + row % TILE_ROWS),
                    levels: levels.map_or(core::ptr::null(), |l| l.as_ptr()),
                };
                // SAFETY: the target has the DSP extension and an FPU. The lengths of all planes were checked above: `passes`
                // halves from `row` on lie in them, in steps of whole tile rows, with `count` groups from `first` on, of which
                // `panel` holds the inputs. `at` has room for eight sums every 64 bytes, `passes` times.
                unsafe {
                    match levels {
                        None => q8::pass(&mut pass),
                        Some(_) => q4::pass(&mut pass),
                    }
                }
            }
            first += count;
        }
        for (out, rest) in rest_out.iter_mut().zip(rest) {
            *out = rest;
        }
    }
    Some(())
}
