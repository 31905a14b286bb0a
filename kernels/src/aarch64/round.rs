//! Rounding of activations to int8, in registers.

use crate::portable::SILENT;
use crate::quant::GROUP;
use core::arch::aarch64::*;

/// See [`crate::portable::quantize_activations`].
pub(super) fn quantize_activations(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    let (groups, _) = codes.as_chunks_mut::<GROUP>();
    for (g, ((codes, scale), sum)) in groups.iter_mut().zip(scales).zip(sums).enumerate() {
        let x = x.get(g * GROUP..).unwrap_or_default();
        if let Some(x) = x.first_chunk() {
            (*scale, *sum) = round(x, codes);
        } else {
            let mut padded = [0.0; GROUP];
            for (padded, &x) in padded.iter_mut().zip(x) {
                *padded = x;
            }
            (*scale, *sum) = round(&padded, codes);
        }
    }
}

/// Rounds a group; its scale and the sum of its codes.
#[inline(always)]
fn round(x: &[f32; GROUP], codes: &mut [i8; GROUP]) -> (f32, i32) {
    // SAFETY: NEON is part of every aarch64 core; loads are of 32 floats, stores of 32 bytes.
    unsafe {
        let x: [float32x4_t; 8] = core::array::from_fn(|i| vld1q_f32(x.as_ptr().add(4 * i)));
        // A number is larger than a NaN, as for the portable comparison.
        let mut largest = vdupq_n_f32(0.0);
        for &x in &x {
            largest = vmaxnmq_f32(largest, vabsq_f32(x));
        }
        let largest = vmaxnmvq_f32(largest);
        let silent = largest < SILENT;
        let scale = if silent { 0.0 } else { largest / 127.0 };
        let inverse = if silent { 0.0 } else { 127.0 / largest };
        // Adding 1.5 * 2^23 leaves the nearest integer, ties to even, in the low bytes.
        let rounded = x.map(|x| vreinterpretq_s16_f32(vaddq_f32(vmulq_n_f32(x, inverse), vdupq_n_f32(12_582_912.0))));
        let mut total = vdupq_n_s32(0);
        for half in 0..2 {
            let [a, b, c, d] = [rounded[4 * half], rounded[4 * half + 1], rounded[4 * half + 2], rounded[4 * half + 3]];
            let bytes = vuzp1q_s8(vreinterpretq_s8_s16(vuzp1q_s16(a, b)), vreinterpretq_s8_s16(vuzp1q_s16(c, d)));
            vst1q_s8(codes.as_mut_ptr().add(16 * half), bytes);
            total = vpadalq_s16(total, vpaddlq_s8(bytes));
        }
        (scale, vaddvq_s32(total))
    }
}
