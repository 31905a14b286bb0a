//! Rounding of activations to int8, sixteen at a time.

use crate::portable::PORTABLE;
use crate::quant::GROUP;
use core::arch::naked_asm;

/// Columns of a half group.
const HALF: usize = GROUP / 2;

/// See [`crate::KernelTable::quantize_activations`].
pub(super) fn quantize_activations(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    // Stores of two words ask for a word boundary, which buffers have.
    if !codes.as_ptr().cast::<u32>().is_aligned() {
        return PORTABLE.quantize_activations(x, codes, scales, sums);
    }
    let groups = codes.as_chunks_mut::<GROUP>().0.iter_mut().zip(scales).zip(sums);
    for (g, ((codes, scale), sum)) in groups.enumerate() {
        let x = x.get(g * GROUP..).unwrap_or_default();
        let mut padded;
        let (x, halves) = match x.len() {
            GROUP.. => (x.as_ptr(), 2),
            HALF => (x.as_ptr(), 1),
            len => {
                padded = [0.0; GROUP];
                for (padded, &x) in padded.iter_mut().zip(x) {
                    *padded = x;
                }
                (padded.as_ptr(), if len > HALF { 2 } else { 1 })
            }
        };
        // SAFETY: this code is compiled only for targets with the DSP extension and an FPU; `x` is 16 numbers for each half.
        *sum = unsafe { round(x, codes, scale, halves) };
    }
}

/// Rounds `halves` times 16 numbers, 1 or 2, and returns the sum of the codes; codes of a second half that is not there become zero.
/// Takes the same instructions whatever the numbers are.
///
/// s0-s7 numbers, s8 the largest, s9 127, s10 scale, s11 inverse, s12 constants, s13 zero.
#[unsafe(naked)]
unsafe extern "C" fn round(x: *const f32, codes: &mut [i8; GROUP], scale: &mut f32, halves: usize) -> i32 {
    naked_asm!(
        features!(),
        r"
        .macro brooklet_largest s
            vabs.f32 \s, \s
            vcmp.f32 \s, s8
            vmrs apsr_nzcv, fpscr
            it gt
            vmovgt.f32 s8, \s
        .endm

            push {r4-r11, lr}
            mov r6, #0
            vmov s8, r6
            vmov s13, r6
            movt r6, #0x42fe                     // 127
            vmov s9, r6
            mov r4, r0
            mov r5, r3
        1:
            .rept 2
            vldmia r4!, {s0-s7}
            brooklet_largest s0
            brooklet_largest s1
            brooklet_largest s2
            brooklet_largest s3
            brooklet_largest s4
            brooklet_largest s5
            brooklet_largest s6
            brooklet_largest s7
            .endr
            subs r5, r5, #1
            bne 1b

            movw r6, #0x4260                     // 1e-30: below, a group is silent
            movt r6, #0x0da2
            vmov s12, r6
            vdiv.f32 s10, s8, s9
            vdiv.f32 s11, s9, s8
            vcmp.f32 s8, s12
            vmrs apsr_nzcv, fpscr
            itt mi
            vmovmi.f32 s10, s13
            vmovmi.f32 s11, s13
            vstr s10, [r2]
            mov r6, #0
            movt r6, #0x4b40                     // 1.5 * 2^23: leaves the nearest integer in the low bits
            vmov s12, r6
            mov r12, #0
            mov lr, r3
        2:
            .rept 2
            vldmia r0!, {s0-s7}
            vmul.f32 s0, s0, s11
            vmul.f32 s1, s1, s11
            vmul.f32 s2, s2, s11
            vmul.f32 s3, s3, s11
            vmul.f32 s4, s4, s11
            vmul.f32 s5, s5, s11
            vmul.f32 s6, s6, s11
            vmul.f32 s7, s7, s11
            vadd.f32 s0, s0, s12
            vadd.f32 s1, s1, s12
            vadd.f32 s2, s2, s12
            vadd.f32 s3, s3, s12
            vadd.f32 s4, s4, s12
            vadd.f32 s5, s5, s12
            vadd.f32 s6, s6, s12
            vadd.f32 s7, s7, s12
            vmov r4, r5, s0, s1
            vmov r6, r7, s2, s3
            vmov r8, r9, s4, s5
            vmov r10, r11, s6, s7
            bfi r4, r5, #8, #8
            bfi r4, r6, #16, #8
            bfi r4, r7, #24, #8
            bfi r8, r9, #8, #8
            bfi r8, r10, #16, #8
            bfi r8, r11, #24, #8
            strd r4, r8, [r1], #8
            sxtab16 r12, r12, r4
            sxtab16 r12, r12, r4, ror #8
            sxtab16 r12, r12, r8
            sxtab16 r12, r12, r8, ror #8
            .endr
            subs r3, r3, #1
            bne 2b

            cmp lr, #1
            bne 3f
            mov r4, #0
            strd r4, r4, [r1], #8
            strd r4, r4, [r1], #8
        3:
            sxth r0, r12
            add r0, r0, r12, asr #16
            pop {r4-r11, pc}
        .purgem brooklet_largest
        ",
        options(raw)
    )
}
