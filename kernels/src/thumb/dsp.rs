//! Matrix times vector by the DSP extension: eight rows at a time, group by group.

use super::group::{Group, PANEL, Widening, widen_q4, widen_q8};
use super::{q4, q8};
use crate::portable::PORTABLE;
use crate::quant::{GROUP, Matrix, TILE_ROWS, Weights};
use crate::rows::RowsMut;
use crate::table::Activations;
use core::mem::MaybeUninit;

/// Rows of a pass: what the registers hold sums for.
const PASS_ROWS: usize = TILE_ROWS / 2;

/// Bytes of a tile row's sums, or of its row scales.
const TILE_ROW_BYTES: usize = 4 * TILE_ROWS;

const ZEROS: [f32; PASS_ROWS] = [0.0; PASS_ROWS];
const ONES: [f32; PASS_ROWS] = [1.0; PASS_ROWS];

/// One half (eight rows) of some tile rows in a row. The assembly loads it whole.
#[repr(C)]
struct Walk {
    tiles: *const u8,
    row_scales: *const f32,
    /// Where the sums go.
    out: *mut f32,
    /// What the sums start from.
    start: *const f32,
    out_end: *mut f32,
    sub_scales: *const i8,
    /// What follows; null for nothing.
    next: *const Walk,
}

/// A panel of groups and the rows that it is multiplied with. The assembly loads the first ten at once.
#[repr(C)]
pub(super) struct Pass {
    row_scales: *const f32,
    /// Bytes from one tile row's to the next's.
    row_scales_step: usize,
    out: *mut f32,
    start: *const f32,
    start_step: usize,
    out_end: *mut f32,
    /// Bytes from behind the last tile of the panel to the first of the next tile row's; the same for sub-scales.
    tiles_skip: usize,
    sub_scales_skip: usize,
    /// Columns of the panel in steps of 16.
    half_groups: usize,
    groups: *const MaybeUninit<Group>,
    /// (256): both levels of a byte of 4-bit codes as 16-bit halves.
    levels: *const u32,
    next: *const Walk,
}

/// A matrix as the passes see it; every plane is as long as the shape asks.
struct Planes<'a> {
    rows: usize,
    cols: usize,
    groups: usize,
    /// Bytes of a tile: 512 or 256.
    tile_bytes: usize,
    tiles: *const u8,
    sub_scales: *const i8,
    row_scales: *const f32,
    /// Of 4-bit codes.
    levels: Option<&'a [u32; 256]>,
    shift: i32,
}

/// `out[t] = matrix * x[t]` for every vector `t`; the portable kernel takes what is no work for this: floats, and 4-bit codes through a table of
/// the file's own.
pub(super) fn matmul(matrix: &Matrix<'_>, x: Activations<'_>, mut out: RowsMut<'_>) {
    match (Planes::of(matrix), x) {
        (Some(planes), Activations::Int8 { codes, scales, sums }) => {
            let (codes, groups) = (codes.as_chunks::<GROUP>().0, planes.groups);
            if !codes.as_ptr().cast::<u32>().is_aligned() {
                return PORTABLE.matmul(matrix, x, out);
            }
            for t in 0..out.rows() {
                let inputs = t * groups..(t + 1) * groups;
                let (Some(codes), Some(scales), Some(sums)) = (codes.get(inputs.clone()), scales.get(inputs.clone()), sums.get(inputs))
                else {
                    return;
                };
                let Some(out) = out.row_mut(t).get_mut(..planes.rows) else { return };
                planes.multiply(codes, scales, sums, out);
            }
        }
        _ => PORTABLE.matmul(matrix, x, out),
    }
}

impl<'a> Planes<'a> {
    #[inline(always)]
    fn of(matrix: &Matrix<'a>) -> Option<Self> {
        let groups = matrix.groups();
        let tile_rows = matrix.rows.div_ceil(TILE_ROWS);
        let tiles = tile_rows * groups;
        let (row_scales, sub_scales, tile_bytes, tiles, levels, shift) = match &matrix.weights {
            Weights::Q8(q) => (q.row_scales, q.sub_scales.get(..tiles)?, 512, q.tiles.get(..tiles)?.as_ptr().cast(), None, 0),
            // What the second table adds must fit in 16 bits: a sum of 32 codes is below 4096.
            Weights::Q4(q) if (-8..=8).contains(&q.shift) => {
                let tiles_at = q.tiles.get(..tiles)?.as_ptr().cast();
                (q.row_scales, q.sub_scales.get(..tiles)?, 256, tiles_at, Some(q4::levels_of(q.table)?), i32::from(q.shift))
            }
            _ => return None,
        };
        let row_scales = row_scales.get(..tile_rows)?.as_ptr().cast();
        // Loads of two words ask for a word boundary, which files have.
        let tiles: *const u8 = tiles;
        if !tiles.cast::<u32>().is_aligned() || !sub_scales.as_ptr().cast::<u32>().is_aligned() {
            return None;
        }
        Some(Planes {
            rows: matrix.rows,
            cols: matrix.cols,
            groups,
            tile_bytes,
            tiles,
            sub_scales: sub_scales.as_ptr().cast(),
            row_scales,
            levels,
            shift,
        })
    }

    /// Product with one vector: `codes`, `scales` and `sums` are (groups), `out` is (rows).
    #[inline(never)]
    fn multiply(&self, codes: &[[i8; GROUP]], scales: &[f32], sums: &[i32], out: &mut [f32]) {
        // Rows behind the last whole pass.
        let mut rest = [MaybeUninit::<f32>::uninit(); PASS_ROWS];
        if self.groups <= PANEL {
            self.add_panel(0, self.groups, codes, scales, sums, out, &mut rest);
        } else {
            let mut first = 0;
            while first < self.groups {
                let count = (self.groups - first).min(PANEL);
                self.add_panel(first, count, codes, scales, sums, out, &mut rest);
                first += count;
            }
        }
        for (out, rest) in out.as_chunks_mut::<PASS_ROWS>().1.iter_mut().zip(&rest) {
            // SAFETY: where rows are left over, the passes wrote all eight sums.
            *out = unsafe { rest.assume_init() };
        }
    }

    /// Adds the products of `count` groups from `first` on to `out`, and to `rest` those of the rows behind the last eight.
    #[inline(always)]
    fn add_panel(
        &self,
        first: usize,
        count: usize,
        codes: &[[i8; GROUP]],
        scales: &[f32],
        sums: &[i32],
        out: &mut [f32],
        rest: &mut [MaybeUninit<f32>; PASS_ROWS],
    ) {
        let mut panel = [const { MaybeUninit::<Group>::uninit() }; PANEL];
        let widening = Widening {
            codes: codes.as_ptr().wrapping_add(first).cast(),
            scales: scales.as_ptr().wrapping_add(first),
            sums: sums.as_ptr().wrapping_add(first),
            shift: self.shift,
            groups: panel.as_mut_ptr().cast(),
            count,
        };
        // SAFETY: the DSP extension is there (see below). `matmul` cut codes, scales and sums to the matrix's groups, `count` of which
        // come from `first` on and fit in the panel, and saw to it that codes lie on a word boundary.
        unsafe {
            match self.levels {
                None => widen_q8(&widening),
                Some(_) => widen_q4(&widening),
            }
        }
        let (is_first, is_last) = (first == 0, first + count == self.groups);
        let passes = out.len() / PASS_ROWS;
        let (start_step, row_scales_step) = (if is_first { 0 } else { TILE_ROW_BYTES }, if is_last { TILE_ROW_BYTES } else { 0 });
        let walk = |pass: usize, passes: usize, out: *mut f32, next: *const Walk| {
            let (tile, half) = (pass / 2 * self.groups + first, pass % 2);
            Walk {
                tiles: self.tiles.wrapping_add(tile * self.tile_bytes + half * 4 * PASS_ROWS),
                row_scales: if is_last { self.row_scales.wrapping_add(pass * PASS_ROWS) } else { ONES.as_ptr() },
                out,
                start: if is_first { ZEROS.as_ptr() } else { out },
                out_end: out.wrapping_add(TILE_ROWS * passes),
                sub_scales: self.sub_scales.wrapping_add(tile * TILE_ROWS + half * PASS_ROWS),
                next,
            }
        };
        // Lower halves of all tile rows, then the upper halves, then the rest.
        let at = out.as_mut_ptr();
        let mut next: *const Walk = core::ptr::null();
        let (behind, upper, lower);
        if passes * PASS_ROWS < out.len() {
            behind = walk(passes, 1, rest.as_mut_ptr().cast(), next);
            next = &raw const behind;
        }
        if passes > 1 {
            upper = walk(1, passes / 2, at.wrapping_add(PASS_ROWS), next);
            next = &raw const upper;
        }
        if passes > 0 {
            lower = walk(0, passes.div_ceil(2), at, next);
            next = &raw const lower;
        }
        if next.is_null() {
            return;
        }
        let mut pass = Pass {
            row_scales: ONES.as_ptr(),
            row_scales_step,
            out: at,
            start: ZEROS.as_ptr(),
            start_step,
            out_end: at,
            tiles_skip: (self.groups - count) * self.tile_bytes,
            sub_scales_skip: (self.groups - count) * TILE_ROWS,
            half_groups: if is_last { (self.cols - first * GROUP).div_ceil(GROUP / 2) } else { 2 * count },
            groups: panel.as_ptr(),
            levels: self.levels.map_or(core::ptr::null(), |levels| levels.as_ptr()),
            next,
        };
        // SAFETY: this code is compiled only for targets with the DSP extension and an FPU. `Planes::of` checked the planes, and the
        // walks, each some halves of tile rows, lie in them; `panel` holds `count` groups. Where a walk puts its sums there is room
        // for eight of them every 64 bytes until its end.
        unsafe {
            match self.levels {
                None => q8::pass(&mut pass),
                Some(_) => q4::pass(&mut pass),
            }
        }
    }
}
