//! Matrix times vector by Helium: gathers one row's words, sixteen columns an instruction.

use crate::portable::PORTABLE;
use crate::quant::{GROUP, Matrix, TILE_ROWS, Weights};
use crate::rows::RowsMut;
use crate::table::Activations;
use core::arch::naked_asm;

/// Rows of a pass.
const PASS_ROWS: usize = TILE_ROWS / 2;

/// Eight rows, half of a tile row. The assembly loads the first eight at once.
#[repr(C)]
struct Pass {
    tiles: *const u8,
    sub_scales: *const i8,
    row_scales: *const f32,
    /// (groups) x 32
    codes: *const i8,
    /// (groups)
    scales: *const f32,
    /// (groups)
    sums: *const i32,
    groups: usize,
    out: *mut f32,
    /// (16), of 4-bit codes; what the second table adds.
    table: *const i8,
    shift: i32,
}

/// `out[t] = matrix * x[t]` for every vector `t`; the portable kernel takes floats.
pub(super) fn matmul(matrix: &Matrix<'_>, x: Activations<'_>, mut out: RowsMut<'_>) {
    let Activations::Int8 { codes, scales, sums } = x else { return PORTABLE.matmul(matrix, x, out) };
    if multiply(matrix, codes, scales, sums, &mut out).is_none() {
        PORTABLE.matmul(matrix, x, out);
    }
}

#[inline(always)]
fn multiply(matrix: &Matrix<'_>, codes: &[i8], scales: &[f32], sums: &[i32], out: &mut RowsMut<'_>) -> Option<()> {
    let (rows, groups) = (matrix.rows, matrix.groups());
    let tile_rows = rows.div_ceil(TILE_ROWS);
    let tiles = tile_rows * groups;
    let (row_scales, sub_scales, tile_bytes, tiles, table, shift) = match &matrix.weights {
        Weights::Q8(q) => (q.row_scales, q.sub_scales.get(..tiles)?, 512, q.tiles.get(..tiles)?.as_ptr().cast(), None, 0),
        Weights::Q4(q) => {
            (q.row_scales, q.sub_scales.get(..tiles)?, 256, q.tiles.get(..tiles)?.as_ptr().cast(), Some(q.table), i32::from(q.shift))
        }
        _ => return None,
    };
    let row_scales = row_scales.get(..tile_rows)?.as_flattened();
    let sub_scales = sub_scales.as_flattened();
    let tiles: *const u8 = tiles;
    // Loads of whole words ask for a word boundary, which files and buffers have.
    if !tiles.cast::<u32>().is_aligned() || !codes.as_ptr().cast::<u32>().is_aligned() {
        return None;
    }
    let codes = codes.as_chunks::<GROUP>().0;
    for t in 0..out.rows() {
        let inputs = t * groups..(t + 1) * groups;
        let (Some(codes), Some(scales), Some(sums)) = (codes.get(inputs.clone()), scales.get(inputs.clone()), sums.get(inputs)) else {
            break;
        };
        let Some(out) = out.row_mut(t).get_mut(..rows) else { break };
        // Rows behind the last whole pass.
        let mut rest = [0.0; PASS_ROWS];
        let (whole, behind) = out.as_chunks_mut::<PASS_ROWS>();
        let mut pass = Pass {
            tiles,
            sub_scales: sub_scales.as_ptr(),
            row_scales: row_scales.as_ptr(),
            codes: codes.as_ptr().cast(),
            scales: scales.as_ptr(),
            sums: sums.as_ptr(),
            groups,
            out: whole.as_mut_ptr().cast(),
            table: table.map_or(core::ptr::null(), |table| table.as_ptr()),
            shift,
        };
        for i in 0..rows.div_ceil(PASS_ROWS) {
            if i == whole.len() {
                pass.out = rest.as_mut_ptr();
            }
            // SAFETY: this code is compiled only for cores with Helium. All planes were cut to the shape above: half `i` of their tile
            // rows lies in them, and inputs are those of `groups` groups. `pass.out` has room for eight sums.
            unsafe {
                match table {
                    None => pass_q8(&pass),
                    Some(_) => pass_q4(&pass),
                }
            }
            // The upper half of a tile row, or the lower half of the next.
            let (tiles_step, sub_scales_step) = match i % 2 {
                0 => (4 * PASS_ROWS, PASS_ROWS),
                _ => (groups * tile_bytes - 4 * PASS_ROWS, groups * TILE_ROWS - PASS_ROWS),
            };
            pass.tiles = pass.tiles.wrapping_add(tiles_step);
            pass.sub_scales = pass.sub_scales.wrapping_add(sub_scales_step);
            pass.row_scales = pass.row_scales.wrapping_add(PASS_ROWS);
            pass.out = pass.out.wrapping_add(PASS_ROWS);
        }
        for (out, rest) in behind.iter_mut().zip(rest) {
            *out = rest;
        }
    }
    Some(())
}

/// What both kernels share: scales and sums of four rows, beginning and end.
///
/// Integer sums of four rows go to lanes of q4, times their factors in q3; converting integers to floats is exact. Float sums are the
/// scalar unit's work: Helium's own arithmetic flushes subnormal numbers to zero.
macro_rules! frame {
    () => {
        r"
        .cpu cortex-m55

        .macro brooklet_helium_begin
            push {r4-r11, lr}
            vpush {d8-d15}
            ldrd r4, r6, [r0, #32]                  // the table, what the second adds
            ldm r0, {r1, r3, r5, r7, r9, r10, r11, r12}
            mov r0, r4
            mov lr, r6
            // Addresses of one row's words: 64 bytes apart.
            mov r2, #0
            vidup.u32 q7, r2, #8
            vshl.i32 q7, q7, #3
            vadd.i32 q7, q7, r1
            vmov.i32 q5, #0
            vmov.i32 q6, #0
        .endm

        .macro brooklet_helium_add a, b, c, d
            vmul.i32 q4, q4, q3
            vldr s8, [r9]
            vcvt.f32.s32 q4, q4
            vmul.f32 s16, s16, s8
            vmul.f32 s17, s17, s8
            vmul.f32 s18, s18, s8
            vmul.f32 s19, s19, s8
            vadd.f32 \a, \a, s16
            vadd.f32 \b, \b, s17
            vadd.f32 \c, \c, s18
            vadd.f32 \d, \d, s19
        .endm

        .macro brooklet_helium_end
            vldm r5, {s0-s7}
            vmul.f32 s20, s20, s0
            vmul.f32 s21, s21, s1
            vmul.f32 s22, s22, s2
            vmul.f32 s23, s23, s3
            vmul.f32 s24, s24, s4
            vmul.f32 s25, s25, s5
            vmul.f32 s26, s26, s6
            vmul.f32 s27, s27, s7
            vstm r12, {s20-s27}
            vpop {d8-d15}
            pop {r4-r11, pc}
        .endm
        "
    };
}

/// Eight rows of 8-bit codes.
///
/// q0 q1 inputs, q2 q3 weights, q4 sums of four rows, q5 q6 float sums, q7 addresses; r2 r4 r6 r8 integer sums.
#[unsafe(naked)]
unsafe extern "C" fn pass_q8(pass: &Pass) {
    naked_asm!(
        frame!(),
        r"
        .macro brooklet_helium_q8_row sum, at
            vldrw.u32 q2, [q7, #(\at)]
            vldrw.u32 q3, [q7, #(\at + 256)]
            vmladav.s8 \sum, q2, q0
            vmladava.s8 \sum, q3, q1
        .endm

        .macro brooklet_helium_q8_rows at, a, b, c, d
            brooklet_helium_q8_row r2, (4 * \at)
            brooklet_helium_q8_row r4, (4 * \at + 4)
            brooklet_helium_q8_row r6, (4 * \at + 8)
            brooklet_helium_q8_row r8, (4 * \at + 12)
            vmov q4[2], q4[0], r2, r6
            vmov q4[3], q4[1], r4, r8
            vldrb.s32 q3, [r3, #(\at)]
            brooklet_helium_add \a, \b, \c, \d
        .endm

            brooklet_helium_begin
        1:
            vldrb.u8 q0, [r7], #16
            vldrb.u8 q1, [r7], #16
            brooklet_helium_q8_rows 0, s20, s21, s22, s23
            brooklet_helium_q8_rows 4, s24, s25, s26, s27
            add r3, r3, #16
            add r9, r9, #4
            mov r2, #512
            vadd.i32 q7, q7, r2
            subs r11, r11, #1
            bne 1b
            brooklet_helium_end

        .purgem brooklet_helium_q8_rows
        .purgem brooklet_helium_q8_row
        .purgem brooklet_helium_end
        .purgem brooklet_helium_add
        .purgem brooklet_helium_begin
        ",
        options(raw)
    )
}

/// Eight rows of 4-bit codes.
///
/// As above; a gather looks sixteen codes up. Inputs are columns whose codes lie in low nibbles (q0), and in high ones (q1).
#[unsafe(naked)]
unsafe extern "C" fn pass_q4(pass: &Pass) {
    naked_asm!(
        frame!(),
        r"
        .macro brooklet_helium_q4_row sum, at
            vldrw.u32 q2, [q7, #(\at)]
            vshl.i8 q3, q2, #4
            vshr.u8 q3, q3, #4
            vldrb.u8 q4, [r0, q3]
            vmladav.s8 \sum, q4, q0
            vshr.u8 q3, q2, #4
            vldrb.u8 q4, [r0, q3]
            vmladava.s8 \sum, q4, q1
        .endm

        .macro brooklet_helium_q4_rows at, a, b, c, d
            brooklet_helium_q4_row r2, (4 * \at)
            brooklet_helium_q4_row r4, (4 * \at + 4)
            brooklet_helium_q4_row r6, (4 * \at + 8)
            brooklet_helium_q4_row r8, (4 * \at + 12)
            vmov q4[2], q4[0], r2, r6
            vmov q4[3], q4[1], r4, r8
            vldrb.s32 q3, [r3, #(\at)]
            vshl.i32 q2, q3, #31                    // the pick of the table
            vshr.u32 q2, q2, #31
            vmla.s32 q4, q2, r1
            vshr.s32 q3, q3, #1                     // the factor
            brooklet_helium_add \a, \b, \c, \d
        .endm

            brooklet_helium_begin
        1:
            vld20.32 {q0, q1}, [r7]
            vld21.32 {q0, q1}, [r7]!
            ldr r1, [r10], #4
            mul r1, r1, lr
            brooklet_helium_q4_rows 0, s20, s21, s22, s23
            brooklet_helium_q4_rows 4, s24, s25, s26, s27
            add r3, r3, #16
            add r9, r9, #4
            mov r2, #256
            vadd.i32 q7, q7, r2
            subs r11, r11, #1
            bne 1b
            brooklet_helium_end

        .purgem brooklet_helium_q4_rows
        .purgem brooklet_helium_q4_row
        .purgem brooklet_helium_end
        .purgem brooklet_helium_add
        .purgem brooklet_helium_begin
        ",
        options(raw)
    )
}
