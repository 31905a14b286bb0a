//! Eight rows of 4-bit codes times a panel of groups.

use super::dsp::Pass;
use crate::quant::{LINEAR_TABLE, NONLINEAR_TABLE};
use core::arch::naked_asm;

/// Levels of the usual tables, see [`Pass`].
static NONLINEAR_LEVELS: [u32; 256] = levels(&NONLINEAR_TABLE);
static LINEAR_LEVELS: [u32; 256] = levels(&LINEAR_TABLE);

const fn levels(table: &[i8; 16]) -> [u32; 256] {
    let mut levels = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        levels[byte] = table[byte & 15] as u32 & 0xffff | (table[byte >> 4] as u32) << 16;
        byte += 1;
    }
    levels
}

/// The levels of `table`, if it is one of the usual ones.
#[inline(always)]
pub(super) fn levels_of(table: &[i8; 16]) -> Option<&'static [u32; 256]> {
    const fn bits(table: &[i8; 16]) -> u128 {
        let mut bits = 0;
        let mut i = 16;
        while i > 0 {
            i -= 1;
            bits = bits << 8 | table[i] as u8 as u128;
        }
        bits
    }
    let table = u128::from_le_bytes(table.map(|level| level as u8));
    if table == const { bits(&NONLINEAR_TABLE) } {
        Some(&NONLINEAR_LEVELS)
    } else if table == const { bits(&LINEAR_TABLE) } {
        Some(&LINEAR_LEVELS)
    } else {
        None
    }
}

/// Multiplies; see [`Pass`].
///
/// A byte of weights is two columns of one row, four apart: a table of 256 entries gives both their levels as 16-bit halves, and SMLAD
/// adds two products. Inputs are 256 times themselves, as are the sums; see the 8-bit kernel for what that is good for. A sub-scale's
/// byte is twice the factor, plus the pick of the table: the conversion to float halves the product.
///
/// r0 tiles, r1-r8 integer sums, r9 r10 inputs, r11 r12 levels, lr their table; s0-s7 sums, s14 what the second table adds, s15 scale,
/// s16-s31 inputs. The flags of `subs` live from the beginning of a group to its end.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn pass(pass: &mut Pass) {
    naked_asm!(
        features!(),
        r"
        // Two bytes, four columns, of one row.
        .macro brooklet_q4_row first, a, at
            .if \first && (\at == 0)
                ldrb r11, [r0], #1
                ldrb r12, [r0], #255
            .else
                ldrb r11, [r0, #(\at - 256)]
                ldrb r12, [r0, #(\at - 255)]
            .endif
            ldr r11, [lr, r11, lsl #2]
            ldr r12, [lr, r12, lsl #2]
            .if \first
                smuad \a, r11, r9
            .else
                smlad \a, r11, r9, \a
            .endif
            smlad \a, r12, r10, \a
        .endm

        .macro brooklet_q4_bytes first, x, y, at
            vmov r9, r10, \x, \y
            brooklet_q4_row \first, r1, \at
            brooklet_q4_row \first, r2, (\at + 4)
            brooklet_q4_row \first, r3, (\at + 8)
            brooklet_q4_row \first, r4, (\at + 12)
            brooklet_q4_row \first, r5, (\at + 16)
            brooklet_q4_row \first, r6, (\at + 20)
            brooklet_q4_row \first, r7, (\at + 24)
            brooklet_q4_row \first, r8, (\at + 28)
        .endm

        // Four rows: adds what the second table adds (lr) where it is picked, multiplies by the factors.
        .macro brooklet_q4_scale s, a, b, c, d
            and r12, \s, #0x01000100
            smlabb \b, r12, lr, \b
            smlatb \d, r12, lr, \d
            and r12, \s, #0xfe00fe00
            smulwb \b, \b, r12
            smulwt \d, \d, r12
            lsl \s, \s, #8
            and r12, \s, #0x01000100
            smlabb \a, r12, lr, \a
            smlatb \c, r12, lr, \c
            and r12, \s, #0xfe00fe00
            smulwb \a, \a, r12
            smulwt \c, \c, r12
        .endm

            push {r4-r11, lr}
            vpush {s16-s31}
            sub sp, #20
            mov lr, r0
            str lr, [sp, #12]
            ldr r1, [lr, #40]
            str r1, [sp, #16]
            ldr r1, [lr, #44]
        4:                                       // the next walk
            ldr r2, [r1, #24]
            str r2, [lr, #44]
            ldm r1, {r0, r1, r3, r4, r6, r10}
            str r1, [lr]
            strd r3, r4, [lr, #8]
            str r6, [lr, #20]
            ldm lr, {r1-r8, r11, r12}
        1:                                       // the next tile row
            vldm r4, {s0-s7}
        2:                                       // the next group
            vldmia r12!, {s14-s31}
            subs r11, r11, #2
            stm sp, {r10-r12}
            ldr lr, [sp, #16]
            brooklet_q4_bytes 1, s16, s17, 0
            brooklet_q4_bytes 0, s18, s19, 2
            brooklet_q4_bytes 0, s20, s21, 64
            brooklet_q4_bytes 0, s22, s23, 66
            bmi 3f
            brooklet_q4_bytes 0, s24, s25, 128
            brooklet_q4_bytes 0, s26, s27, 130
            brooklet_q4_bytes 0, s28, s29, 192
            brooklet_q4_bytes 0, s30, s31, 194
        3:
            ldr r10, [sp]
            ldrd r11, r9, [r10], #16             // sub-scales of rows 0-3 and 4-7
            vmov lr, s14
            brooklet_q4_scale r11, r1, r2, r3, r4
            brooklet_q4_scale r9, r5, r6, r7, r8
            ldrd r11, r12, [sp, #4]
            vmov s16, s17, r1, r2
            vmov s18, s19, r3, r4
            vmov s20, s21, r5, r6
            vmov s22, s23, r7, r8
            vcvt.f32.s32 s16, s16, #1
            vcvt.f32.s32 s17, s17, #1
            vcvt.f32.s32 s18, s18, #1
            vcvt.f32.s32 s19, s19, #1
            vcvt.f32.s32 s20, s20, #1
            vcvt.f32.s32 s21, s21, #1
            vcvt.f32.s32 s22, s22, #1
            vcvt.f32.s32 s23, s23, #1
            vmul.f32 s16, s16, s15
            vmul.f32 s17, s17, s15
            vmul.f32 s18, s18, s15
            vmul.f32 s19, s19, s15
            vmul.f32 s20, s20, s15
            vmul.f32 s21, s21, s15
            vmul.f32 s22, s22, s15
            vmul.f32 s23, s23, s15
            vadd.f32 s0, s0, s16
            vadd.f32 s1, s1, s17
            vadd.f32 s2, s2, s18
            vadd.f32 s3, s3, s19
            vadd.f32 s4, s4, s20
            vadd.f32 s5, s5, s21
            vadd.f32 s6, s6, s22
            vadd.f32 s7, s7, s23
            bgt 2b

            ldr lr, [sp, #12]
            ldm lr, {r1-r8, r11, r12}
            vldm r1, {s8-s15}
            vmul.f32 s0, s0, s8
            vmul.f32 s1, s1, s9
            vmul.f32 s2, s2, s10
            vmul.f32 s3, s3, s11
            vmul.f32 s4, s4, s12
            vmul.f32 s5, s5, s13
            vmul.f32 s6, s6, s14
            vmul.f32 s7, s7, s15
            vstm r3, {s0-s7}
            add r1, r1, r2
            add r3, r3, #64
            add r4, r4, r5
            add r0, r0, r7
            add r10, r10, r8
            stm lr, {r1-r4}
            cmp r3, r6
            bne 1b
            ldr r1, [lr, #44]
            cmp r1, #0
            bne 4b

            add sp, #20
            vpop {s16-s31}
            pop {r4-r11, pc}
        .purgem brooklet_q4_scale
        .purgem brooklet_q4_bytes
        .purgem brooklet_q4_row
        ",
        options(raw)
    )
}
