//! The Walsh-Hadamard transform, sixteen numbers at a time.

use super::lanes::{LANES, load, store};
use crate::portable;
use core::arch::x86_64::*;

/// See [`portable::hadamard`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn hadamard(x: &mut [f32], block: usize, scale: f32) {
    if block < LANES || !block.is_power_of_two() {
        return portable::hadamard(x, block, scale);
    }
    let scale = _mm512_set1_ps(scale);
    for x in x.chunks_exact_mut(block) {
        let (x, _) = x.as_chunks_mut::<LANES>();
        for x in x.iter_mut() {
            store(x, within(load(x)));
        }
        let mut half = 1; // registers
        while half < x.len() {
            for pair in x.chunks_exact_mut(2 * half) {
                let (a, b) = pair.split_at_mut(half);
                for (a, b) in a.iter_mut().zip(b) {
                    let (low, high) = (load(a), load(b));
                    store(a, _mm512_add_ps(low, high));
                    store(b, _mm512_sub_ps(low, high));
                }
            }
            half *= 2;
        }
        for x in x {
            store(x, _mm512_mul_ps(load(x), scale));
        }
    }
}

/// The butterflies of width 1, 2, 4 and 8 inside a register.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn within(x: __m512) -> __m512 {
    let x = butterfly(x, _mm512_permute_ps::<0b10_11_00_01>(x), 0xaaaa);
    let x = butterfly(x, _mm512_permute_ps::<0b01_00_11_10>(x), 0xcccc);
    let x = butterfly(x, _mm512_shuffle_f32x4::<0b10_11_00_01>(x, x), 0xf0f0);
    butterfly(x, _mm512_shuffle_f32x4::<0b01_00_11_10>(x, x), 0xff00)
}

/// The sum where a lane is its pair's first, the difference where it is the second (`seconds`); `other` holds each lane's partner.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn butterfly(x: __m512, other: __m512, seconds: __mmask16) -> __m512 {
    _mm512_mask_sub_ps(_mm512_add_ps(x, other), seconds, other, x)
}
