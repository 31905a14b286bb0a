//! Root-mean-square norm and layer norm, by groups, with the gate that Mamba-2 puts before or after.

use super::act::silu;
use super::reduce::sum_of;
use crate::sqrt::sqrt;
use crate::table::{Norm, NormKind};

/// Normalises `x` in place, group by group.
#[inline(always)]
pub(crate) fn norm(norm: &Norm<'_>, x: &mut [f32]) {
    if let Some(gate) = norm.gate
        && norm.gate_first
    {
        multiply_silu(x, gate);
    }
    let width = (x.len() / norm.groups.max(1)).max(1);
    for x in x.chunks_exact_mut(width) {
        let count = width as f32;
        if norm.kind == NormKind::Layer {
            let mean = sum_of(x, |v| v) / count;
            for v in x.iter_mut() {
                *v -= mean;
            }
        }
        let mean_square = sum_of(x, |v| v * v) / count;
        let root = match norm.kind {
            NormKind::RmsEpsOutside => sqrt(mean_square) + norm.eps,
            NormKind::Rms | NormKind::Layer => sqrt(mean_square + norm.eps),
        };
        let inverse = 1.0 / root;
        for v in x.iter_mut() {
            *v *= inverse;
        }
    }
    if let Some(weight) = norm.weight {
        for (v, w) in x.iter_mut().zip(weight) {
            *v *= w;
        }
    }
    if let Some(bias) = norm.bias {
        for (v, b) in x.iter_mut().zip(bias) {
            *v += b;
        }
    }
    if let Some(gate) = norm.gate
        && !norm.gate_first
    {
        multiply_silu(x, gate);
    }
}

#[inline(always)]
fn multiply_silu(x: &mut [f32], gate: &[f32]) {
    for (v, &z) in x.iter_mut().zip(gate) {
        *v *= silu(z);
    }
}
