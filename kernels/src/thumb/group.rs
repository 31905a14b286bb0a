//! Inputs of a group, widened once for all rows: pairs of 16-bit halves, 256 times the codes, in the order in which weights unpack.

use crate::quant::GROUP;
use core::arch::naked_asm;

/// Groups widened at once: 128 columns take 288 bytes of stack.
pub(super) const PANEL: usize = 4;

/// The assembly loads it whole.
#[repr(C)]
pub(super) struct Group {
    /// What the second table of 4-bit codes adds.
    picked: i32,
    /// Scale of the inputs.
    scale: f32,
    /// (16)
    pairs: [u32; GROUP / 2],
}

/// Groups to widen. The assembly loads it whole.
#[repr(C)]
pub(super) struct Widening {
    /// (count) x 32
    pub(super) codes: *const i8,
    /// (count)
    pub(super) scales: *const f32,
    /// (count)
    pub(super) sums: *const i32,
    /// What the second table of 4-bit codes adds to the first.
    pub(super) shift: i32,
    /// (count)
    pub(super) groups: *mut Group,
    /// Not 0.
    pub(super) count: usize,
}

/// For 8-bit weights, whose words are four columns: columns (0, 2), then (1, 3).
#[unsafe(naked)]
pub(super) unsafe extern "C" fn widen_q8(widening: &Widening) {
    naked_asm!(
        features!(),
        r"
            push {r4-r11, lr}
            ldm r0, {r0-r5}
            mov lr, #0xff00ff00
        1:
            ldr r7, [r1], #4
            str r7, [r4, #4]
            add r4, r4, #8
            .rept 2
            ldm r0!, {r3, r6, r7, r12}
            and r8, lr, r3, lsl #8
            and r9, lr, r3
            and r10, lr, r6, lsl #8
            and r11, lr, r6
            stm r4!, {r8-r11}
            and r8, lr, r7, lsl #8
            and r9, lr, r7
            and r10, lr, r12, lsl #8
            and r11, lr, r12
            stm r4!, {r8-r11}
            .endr
            subs r5, r5, #1
            bne 1b
            pop {r4-r11, pc}
        ",
        options(raw)
    )
}

/// For 4-bit weights, whose words are eight columns, four of them in the low nibbles: columns (0, 4), (1, 5), (2, 6), (3, 7).
#[unsafe(naked)]
pub(super) unsafe extern "C" fn widen_q4(widening: &Widening) {
    naked_asm!(
        features!(),
        r"
            push {r4-r11, lr}
            ldm r0, {r0-r5}
            mov lr, #0xff00ff00
        1:
            ldr r6, [r2], #4
            mul r6, r6, r3
            ldr r7, [r1], #4
            stm r4!, {r6, r7}
            .rept 4
            ldm r0!, {r6, r7}
            and r12, lr, r6, lsl #8
            and r10, lr, r7, lsl #8
            and r6, lr, r6
            and r7, lr, r7
            pkhbt r8, r12, r10, lsl #16
            pkhtb r10, r10, r12, asr #16
            pkhbt r9, r6, r7, lsl #16
            pkhtb r11, r7, r6, asr #16
            stm r4!, {r8-r11}
            .endr
            subs r5, r5, #1
            bne 1b
            pop {r4-r11, pc}
        ",
        options(raw)
    )
}
