//! Norms with their gates.

use super::act::{each, silu};
use super::lanes::{TOGETHER, map_with};
use crate::portable;
use crate::table::Norm;
use core::arch::x86_64::*;

/// See [`portable::norm`], which takes what is between the gates.
#[target_feature(enable = "avx2")]
pub(in crate::x86) fn norm(norm: &Norm<'_>, x: &mut [f32]) {
    if let Some(gate) = norm.gate
        && norm.gate_first
    {
        multiply_silu(x, gate);
    }
    portable::norm(&Norm { gate: None, ..*norm }, x);
    if let Some(gate) = norm.gate
        && !norm.gate_first
    {
        multiply_silu(x, gate);
    }
}

/// `x[i] <- x[i] * silu(gate[i])`.
#[inline]
#[target_feature(enable = "avx2")]
fn multiply_silu(x: &mut [f32], gate: &[f32]) {
    map_with(x, gate, |x, z| {
        let share = silu(z);
        each!(i < TOGETHER: _mm256_mul_ps(x[i], share[i]))
    });
}

/// `x[i] <- silu(x[i]) * y[i]`.
#[target_feature(enable = "avx2")]
pub(in crate::x86) fn silu_multiply(x: &mut [f32], y: &[f32]) {
    map_with(x, y, |x, y| {
        let x = silu(x);
        each!(i < TOGETHER: _mm256_mul_ps(x[i], y[i]))
    });
}
