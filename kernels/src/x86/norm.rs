//! Norms with their gates.

use super::act::{each, silu};
use super::lanes::{TOGETHER, map, map_with, sum_of};
use crate::sqrt::sqrt;
use crate::table::{Norm, NormKind};
use core::arch::x86_64::*;

/// See [`portable::norm`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn norm(norm: &Norm<'_>, x: &mut [f32]) {
    if let Some(gate) = norm.gate
        && norm.gate_first
    {
        multiply_silu(x, gate);
    }
    let width = (x.len() / norm.groups.max(1)).max(1);
    for x in x.chunks_exact_mut(width) {
        let count = width as f32;
        if norm.kind == NormKind::Layer {
            let mean = _mm512_set1_ps(sum_of(x, |x| x) / count);
            map(x, |x| each!(i < TOGETHER: _mm512_sub_ps(x[i], mean)));
        }
        let mean_square = sum_of(x, |x| _mm512_mul_ps(x, x)) / count;
        let root = match norm.kind {
            NormKind::RmsEpsOutside => sqrt(mean_square) + norm.eps,
            NormKind::Rms | NormKind::Layer => sqrt(mean_square + norm.eps),
        };
        let inverse = _mm512_set1_ps(1.0 / root);
        map(x, |x| each!(i < TOGETHER: _mm512_mul_ps(x[i], inverse)));
    }
    if let Some(weight) = norm.weight {
        map_with(x, weight, |x, w| each!(i < TOGETHER: _mm512_mul_ps(x[i], w[i])));
    }
    if let Some(bias) = norm.bias {
        map_with(x, bias, |x, b| each!(i < TOGETHER: _mm512_add_ps(x[i], b[i])));
    }
    if let Some(gate) = norm.gate
        && !norm.gate_first
    {
        multiply_silu(x, gate);
    }
}

/// `x[i] <- x[i] * silu(gate[i])`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn multiply_silu(x: &mut [f32], gate: &[f32]) {
    map_with(x, gate, |x, z| {
        let share = silu(z);
        each!(i < TOGETHER: _mm512_mul_ps(x[i], share[i]))
    });
}

/// `x[i] <- silu(x[i]) * y[i]`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn silu_multiply(x: &mut [f32], y: &[f32]) {
    map_with(x, y, |x, y| {
        let x = silu(x);
        each!(i < TOGETHER: _mm512_mul_ps(x[i], y[i]))
    });
}
