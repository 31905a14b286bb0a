//! Eight rows of 8-bit codes times a panel of groups.

use super::dsp::Pass;
use core::arch::naked_asm;

/// Multiplies; see [`Pass`].
///
/// A word of weights is four columns of one row. Two SXTB16 turn it into columns (0, 2) and (1, 3), two SMLAD add their products: the
/// inputs were widened in that order. They are 256 times themselves, and so are the sums: with sub-scales in the upper bytes of
/// 16-bit halves, SMULW, which drops 16 bits, gives the exact product.
///
/// r0 tiles, r1-r8 integer sums, r9 r10 inputs, r11 r12 weights, lr one pair of columns; s0-s7 sums, s15 scale, s16-s31 inputs.
/// The flags of `subs` live from the beginning of a group to its end.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn pass(pass: &mut Pass) {
    naked_asm!(
        features!(),
        r"
        // Four columns of two rows.
        .macro brooklet_q8_rows first, a, b, at
            .if \first && (\at == 0)
                ldrd r11, r12, [r0], #512
            .else
                ldrd r11, r12, [r0, #(\at - 512)]
            .endif
            sxtb16 lr, r11
            sxtb16 r11, r11, ror #8
            .if \first
                smuad \a, lr, r9
            .else
                smlad \a, lr, r9, \a
            .endif
            sxtb16 lr, r12
            smlad \a, r11, r10, \a
            sxtb16 r12, r12, ror #8
            .if \first
                smuad \b, lr, r9
            .else
                smlad \b, lr, r9, \b
            .endif
            smlad \b, r12, r10, \b
        .endm

        .macro brooklet_q8_word first, x, y, at
            vmov r9, r10, \x, \y
            brooklet_q8_rows \first, r1, r2, \at
            brooklet_q8_rows \first, r3, r4, (\at + 8)
            brooklet_q8_rows \first, r5, r6, (\at + 16)
            brooklet_q8_rows \first, r7, r8, (\at + 24)
        .endm

            push {r4-r11, lr}
            vpush {s16-s31}
            sub sp, #20
            mov lr, r0
            str lr, [sp, #12]
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
            brooklet_q8_word 1, s16, s17, 0
            brooklet_q8_word 0, s18, s19, 64
            brooklet_q8_word 0, s20, s21, 128
            brooklet_q8_word 0, s22, s23, 192
            bmi 3f
            brooklet_q8_word 0, s24, s25, 256
            brooklet_q8_word 0, s26, s27, 320
            brooklet_q8_word 0, s28, s29, 384
            brooklet_q8_word 0, s30, s31, 448
        3:
            ldr r10, [sp]
            ldrd r11, r9, [r10], #16             // sub-scales of rows 0-3 and 4-7
            mov lr, #0xff00ff00
            and r12, lr, r11, lsl #8
            and r11, r11, lr
            smulwb r1, r1, r12
            smulwb r2, r2, r11
            smulwt r3, r3, r12
            smulwt r4, r4, r11
            and r12, lr, r9, lsl #8
            and r9, r9, lr
            smulwb r5, r5, r12
            smulwb r6, r6, r9
            smulwt r7, r7, r12
            smulwt r8, r8, r9
            ldrd r11, r12, [sp, #4]
            vmov s16, s17, r1, r2
            vmov s18, s19, r3, r4
            vmov s20, s21, r5, r6
            vmov s22, s23, r7, r8
            vcvt.f32.s32 s16, s16
            vcvt.f32.s32 s17, s17
            vcvt.f32.s32 s18, s18
            vcvt.f32.s32 s19, s19
            vcvt.f32.s32 s20, s20
            vcvt.f32.s32 s21, s21
            vcvt.f32.s32 s22, s22
            vcvt.f32.s32 s23, s23
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
        .purgem brooklet_q8_word
        .purgem brooklet_q8_rows
        ",
        options(raw)
    )
}
