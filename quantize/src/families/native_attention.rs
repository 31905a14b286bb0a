//! Attention blocks of state-spaces/mamba's hybrids (its modules/mha.py): one projection for queries, keys and values, a convolution
//! over all of them, rotary angles, and a gated MLP beside the heads.
//!
//! As in training. The reference's own decoding keeps the convolved values as the convolution's past, and differs.

use super::Names;
use super::attention::check_head_dim;
use super::mixer::named_conv;
use crate::checkpoint::Config;
use crate::error::Error;
use crate::graph::{Graph, Operand};
use brooklet::ops::Rotary;
use serde_json::json;

/// The MLP's width, gate and value together, is rounded up to a multiple of this.
const MLP_MULTIPLE: usize = 256;

/// An attention block, the same in every layer that has one.
pub(super) struct NativeAttention {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    scale: f32,
    /// Taps of the convolution; 0: there is none.
    taps: usize,
    /// Numbers beside the heads, value and gate together.
    mlp_width: usize,
    bias: bool,
    out_bias: bool,
    /// Angular steps of the rotated dimensions, in radians.
    turns: Vec<f64>,
}

impl NativeAttention {
    /// From the model's `attn_cfg`.
    pub(super) fn read(config: &Config, d_model: usize) -> Result<Self, Error> {
        if !config.flag_or("causal", false)? {
            return Err(config.error("causal", "is not true; attention that looks ahead cannot stream"));
        }
        config.refuse_unless("rotary_emb_interleaved", &json!(false))?;
        let heads = config.size("num_heads")?;
        let kv_heads = config.maybe_size("num_heads_kv")?.unwrap_or(heads);
        let head_dim = config.maybe_size("head_dim")?.unwrap_or(d_model / heads);
        if !heads.is_multiple_of(kv_heads) || head_dim == 0 {
            return Err(config.error("num_heads_kv", format!("{heads} heads of {head_dim} cannot share {kv_heads} key-value heads")));
        }
        check_head_dim(config, "head_dim", head_dim)?;
        let rotated = config.count_or("rotary_emb_dim", 0)?;
        if rotated > head_dim || !rotated.is_multiple_of(2) {
            return Err(config.error("rotary_emb_dim", format!("is {rotated}; expected an even number up to a head's {head_dim}")));
        }
        let base = config.number_or("rotary_emb_base", 10_000.0)?;
        if base < 1.0 {
            return Err(config.error("rotary_emb_base", format!("is {base}, expected at least 1")));
        }
        Ok(NativeAttention {
            heads,
            kv_heads,
            head_dim,
            scale: config.number_or("softmax_scale", (head_dim as f64).powf(-0.5))? as f32,
            taps: config.count_or("d_conv", 0)?,
            mlp_width: config.count_or("mlp_dim", 0)?.next_multiple_of(MLP_MULTIPLE),
            bias: config.flag_or("qkv_proj_bias", true)?,
            out_bias: config.flag_or("out_proj_bias", true)?,
            turns: (0..rotated / 2).map(|i| base.powf(-2.0 * i as f64 / rotated as f64)).collect(),
        })
    }

    /// The rotary angles, once for all layers.
    pub(super) fn rotary(&self, g: &mut Graph<'_>) -> Option<Rotary> {
        (!self.turns.is_empty()).then(|| g.turns("rotary.turns", &self.turns))
    }

    /// The mixer of a normed input, (d_model) to (d_model).
    pub(super) fn build<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, x: Operand, rotary: Option<Rotary>) -> Result<Operand, Error> {
        let (width, kv_width) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let qkv_width = width + 2 * kv_width;
        let all = names.linear(g, "in_proj", qkv_width + self.mlp_width, x, self.bias)?;
        let qkv = all.part(0, qkv_width);
        match self.taps {
            0 => {}
            taps => named_conv(g, names, "conv1d", qkv, taps, true, false)?,
        }
        let context = g.attention(qkv.split([width, kv_width, kv_width]), self.heads, self.scale, rotary);
        let context = match self.mlp_width {
            0 => context,
            both => {
                let [value, gate] = all.part(qkv_width, both).split([both / 2, both / 2]);
                g.silu_multiply(gate, value);
                g.concat([context, gate])
            }
        };
        names.linear(g, "out_proj", x.len as usize, context, self.out_bias)
    }
}
