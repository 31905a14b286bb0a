//! Gated DeltaNet: convolution, gated delta rule, gated norm. Shared by the families that have it.

use super::Names;
use super::mixer::{decay, named_conv};
use crate::checkpoint::Config;
use crate::error::Error;
use crate::graph::{Graph, Operand, Role};
use brooklet::ops::{Gate, GatedDelta};

/// Added to the squared lengths of queries and keys; a constant of the reference.
const LENGTH_EPS: f32 = 1e-6;

/// A Gated DeltaNet's shape.
pub(super) struct GatedDeltaNet {
    /// Heads of values.
    pub(super) heads: usize,
    /// Heads of queries and keys.
    pub(super) key_heads: usize,
    pub(super) key_dim: usize,
    pub(super) value_dim: usize,
    pub(super) d_conv: usize,
    /// Epsilon of the gated norm.
    pub(super) eps: f32,
}

impl GatedDeltaNet {
    pub(super) fn new(config: &Config, eps: f32) -> Result<Self, Error> {
        let (heads, key_heads) =
            (config.maybe_size("linear_num_value_heads")?.unwrap_or(32), config.maybe_size("linear_num_key_heads")?.unwrap_or(16));
        if !heads.is_multiple_of(key_heads) {
            return Err(config.error("linear_num_key_heads", format!("is {key_heads}, which does not divide the {heads} heads of values")));
        }
        Ok(GatedDeltaNet {
            heads,
            key_heads,
            key_dim: config.maybe_size("linear_key_head_dim")?.unwrap_or(128),
            value_dim: config.maybe_size("linear_value_head_dim")?.unwrap_or(128),
            d_conv: config.maybe_size("linear_conv_kernel_dim")?.unwrap_or(4),
            eps,
        })
    }

    /// `out_proj(norm(delta(conv(q, k, v), a, b)) * silu(z))` of a normed input, (d_model) to (d_model).
    pub(super) fn build<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, x: Operand) -> Result<Operand, Error> {
        let (keys, values) = (self.key_heads * self.key_dim, self.heads * self.value_dim);
        let channels = 2 * keys + values;
        let d_model = x.len as usize;
        let [qkv, z, b, a] = if names.has("in_proj_qkvz.weight") {
            // Qwen3-Next stores the rows of all by key head.
            let per_key = self.heads / self.key_heads;
            let wide = per_key * self.value_dim;
            let qkvz = names.reordered(g, "in_proj_qkvz.weight", [channels + values, d_model], Role::Projection, || {
                by_part(self.key_heads, &[self.key_dim, self.key_dim, wide, wide])
            })?;
            let ba = names.reordered(g, "in_proj_ba.weight", [2 * self.heads, d_model], Role::StepSize, || {
                by_part(self.key_heads, &[per_key, per_key])
            })?;
            let [qkv, z] = g.linear(qkvz, None, x).split([channels, values]);
            let [b, a] = g.linear(ba, None, x).split([self.heads, self.heads]);
            [qkv, z, b, a]
        } else {
            let qkv = names.linear(g, "in_proj_qkv", channels, x, false)?;
            let z = names.linear(g, "in_proj_z", values, x, false)?;
            let b = names.matrix(g, "in_proj_b.weight", self.heads, d_model, Role::StepSize)?;
            let a = names.matrix(g, "in_proj_a.weight", self.heads, d_model, Role::StepSize)?;
            [qkv, z, g.linear(b, None, x), g.linear(a, None, x)]
        };
        named_conv(g, names, "conv1d", qkv, self.d_conv, false, true)?;
        let [q, k, v] = qkv.split([keys, keys, values]);
        let a_log = names.read("A_log", &[self.heads])?;
        let decay = g.array(names.full("A"), decay(&a_log));
        let dt_bias = names.array(g, "dt_bias", &[self.heads])?;
        let (key_heads, scale) = (self.key_heads as u32, (self.key_dim as f64).powf(-0.5) as f32);
        let (out, state) = Graph::later();
        let y = g.gated_delta(GatedDelta { q, k, v, a, b, out, decay, dt_bias, key_heads, scale, beta_scale: 1.0, eps: LENGTH_EPS, state });
        let weight = names.read("norm.weight", &[self.value_dim])?.repeat(self.heads);
        let weight = g.array(names.full("norm.weight"), weight);
        let gated = g.gated_norm(y, Gate { z, first: false }, weight, self.heads, self.eps);
        names.linear(g, "out_proj", d_model, gated, false)
    }
}

/// Rows stored as `groups` times parts of the given lengths, in the order that brings each part's rows together.
pub(super) fn by_part(groups: usize, parts: &[usize]) -> Vec<usize> {
    let stride: usize = parts.iter().sum();
    let mut at = 0;
    let mut order = Vec::with_capacity(groups * stride);
    for &part in parts {
        order.extend((0..groups).flat_map(|group| (0..part).map(move |row| group * stride + at + row)));
        at += part;
    }
    order
}
