//! LFM2 (`model_type` "lfm2") and its mixture of experts ("lfm2_moe"): a short convolution between two gates, or attention,
//! then a gated MLP or a choice of experts.

use super::attention::{HeadNorms, SelfAttention};
use super::experts::top_k;
use super::mixer::named_conv;
use super::mlp::{GateUp, GatedMlp};
use super::{Names, head_matrix, layers, text_graph};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::Error;
use crate::graph::{Graph, Operand, Role};
use brooklet::ops::{Activation, Router, TensorId};

// The projections of an MLP, and of every expert.
const GATE: &str = "w1";
const UP: &str = "w3";
const DOWN: &str = "w2";

pub(super) fn build(checkpoint: &Checkpoint) -> Result<Graph<'_>, Error> {
    build_with(checkpoint, None)
}

pub(super) fn build_moe(checkpoint: &Checkpoint) -> Result<Graph<'_>, Error> {
    let config = &checkpoint.config;
    let count = config.maybe_size("num_experts")?.unwrap_or(32);
    let experts = Experts {
        dense_layers: config.count_or("num_dense_layers", 2)?,
        count,
        top_k: top_k(config, "num_experts_per_tok", count, 4)?,
        width: config.size("moe_intermediate_size")?,
        biased: config.flag_or("use_expert_bias", true)?,
        renormalize: config.flag_or("norm_topk_prob", true)?.then_some(1e-6),
        scale: config.number_or("routed_scaling_factor", 1.0)? as f32,
    };
    build_with(checkpoint, Some(&experts))
}

fn build_with<'a>(checkpoint: &'a Checkpoint, experts: Option<&Experts>) -> Result<Graph<'a>, Error> {
    let config = &checkpoint.config;
    let d_model = config.size("hidden_size")?;
    let vocab = config.size("vocab_size")?;
    let eps = config.number_or("norm_eps", 1e-5)? as f32;
    let conv = ShortConv { taps: config.maybe_size("conv_L_cache")?.unwrap_or(3), bias: config.flag_or("conv_bias", false)? };
    let is_attention = attention_layers(config, layers(checkpoint)?)?;
    let mut g = text_graph(checkpoint, vocab)?;
    let attention = if is_attention.contains(&true) { Some(attention(&mut g, config, d_model, eps)?) } else { None };
    let model = Names::new(checkpoint, "model.");
    let table = model.matrix(&mut g, "embed_tokens.weight", vocab, d_model, Role::Embedding)?;
    let x = g.embed(table, d_model, 1.0);
    for (i, is_attention) in is_attention.into_iter().enumerate() {
        let layer = model.under(&format!("layers.{i}"));
        let normed = layer.rms_norm(&mut g, "operator_norm.weight", x, eps)?;
        let y = match &attention {
            Some(attention) if is_attention => attention.build(&mut g, &layer.under("self_attn"), normed)?,
            _ => conv.build(&mut g, &layer.under("conv"), normed)?,
        };
        g.add(x, y, 1.0);
        let normed = layer.rms_norm(&mut g, "ffn_norm.weight", x, eps)?;
        let mlp = layer.under("feed_forward");
        let y = match experts {
            Some(experts) if i >= experts.dense_layers => experts.build(&mut g, &mlp, normed)?,
            _ => dense(checkpoint, &mlp)?.build(&mut g, &mlp, normed)?,
        };
        g.add(x, y, 1.0);
    }
    // The name notwithstanding, this is the final norm.
    let normed = model.rms_norm(&mut g, "embedding_norm.weight", x, eps)?;
    let tied = config.flag_or("tie_embedding", config.flag_or("tie_word_embeddings", true)?)?;
    let head = head_matrix(&mut g, checkpoint, table, tied)?;
    g.head(head, None, normed, 1.0);
    Ok(g)
}

/// Which layers attend: from a kind per layer, or a list of layers in older configs.
fn attention_layers(config: &Config, layers: usize) -> Result<Vec<bool>, Error> {
    if config.value("layer_types").is_none() {
        // All of them if neither key is there.
        let listed = if config.value("full_attn_idxs").is_some() { Some(config.numbers("full_attn_idxs")?) } else { None };
        return Ok((0..layers).map(|i| listed.as_ref().is_none_or(|listed| listed.contains(&(i as f32)))).collect());
    }
    let kinds = config.texts("layer_types")?;
    if kinds.len() != layers {
        return Err(config.error("layer_types", format!("lists {} layers, num_hidden_layers says {layers}", kinds.len())));
    }
    let is_attention = |(i, kind): (usize, &&str)| match *kind {
        "conv" => Ok(false),
        "full_attention" | "attention" => Ok(true),
        other => Err(config.error("layer_types", format!("entry {i} is \"{other}\"; supported are conv and full_attention"))),
    };
    kinds.iter().enumerate().map(is_attention).collect()
}

fn attention(g: &mut Graph<'_>, config: &Config, d_model: usize, eps: f32) -> Result<SelfAttention, Error> {
    let shape = SelfAttention::new(config, d_model, Some(8))?;
    let head_dim = shape.head_dim;
    let norms = HeadNorms { names: ["q_layernorm", "k_layernorm"], eps, plus_one: false, rotated: (0, 1.0) };
    SelfAttention { out_proj: "out_proj", head_norms: Some(norms), ..shape }.with_rotary(g, config, head_dim, 1e6)
}

/// The dense MLP. Configs round its width in several ways: the matrix itself knows.
fn dense(checkpoint: &Checkpoint, names: &Names<'_>) -> Result<GatedMlp, Error> {
    let shape = checkpoint.shape(&names.full(&format!("{GATE}.weight")))?;
    let width = shape.first().copied().unwrap_or(0);
    Ok(GatedMlp { gate_up: GateUp::Split(GATE, UP), down: DOWN, ..GatedMlp::llama(width) })
}

/// A convolution of a few steps between two gates.
pub(super) struct ShortConv {
    pub(super) taps: usize,
    pub(super) bias: bool,
}

impl ShortConv {
    /// `out_proj(c * conv(b * x))` of a normed input, (d_model) to (d_model).
    pub(super) fn build<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, input: Operand) -> Result<Operand, Error> {
        let d_model = input.len as usize;
        let bcx = names.linear(g, "in_proj", 3 * d_model, input, self.bias)?;
        let [b, c, x] = bcx.split([d_model; 3]);
        g.multiply(x, b);
        named_conv(g, names, "conv", x, self.taps, self.bias, false)?;
        g.multiply(x, c);
        names.linear(g, "out_proj", d_model, x, self.bias)
    }
}

/// The experts of a layer.
struct Experts {
    /// Layers at the beginning that have an MLP instead.
    dense_layers: usize,
    count: usize,
    top_k: usize,
    width: usize,
    /// Whether the choice adds a bias.
    biased: bool,
    /// Added to the sum that weights are divided by, if they are.
    renormalize: Option<f32>,
    scale: f32,
}

impl Experts {
    /// The chosen experts' sum for a normed input, (d_model) to (d_model).
    fn build<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, x: Operand) -> Result<Operand, Error> {
        let gate = names.matrix(g, "gate.weight", self.count, x.len as usize, Role::Router)?;
        let bias = names.bias(g, "expert_bias", self.count, self.biased)?;
        let scores = g.linear(gate, None, x);
        let mut experts_at = None;
        for e in 0..self.count {
            let first = self.expert(g, &names.under(&format!("experts.{e}")), x.len as usize)?;
            experts_at.get_or_insert(first);
        }
        let router = Router::Sigmoid { bias, groups: 1, top_groups: 1, renormalize: self.renormalize };
        Ok(g.moe(x, scores, experts_at.unwrap_or_default(), router, self.top_k, self.scale, true, Activation::Silu))
    }

    /// An expert's two matrices, the first with the gate's rows before the others'.
    fn expert<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, d_model: usize) -> Result<TensorId, Error> {
        let (width, checkpoint) = (self.width, names.checkpoint);
        let halves = [GATE, UP].map(|name| names.full(&format!("{name}.weight")));
        for name in &halves {
            checkpoint.expect(name, &[width, d_model])?;
        }
        let first = g.matrix(names.full(&format!("{GATE}_{UP}.weight")), 2 * width, d_model, Role::Projection, move || {
            let mut both = Vec::with_capacity(2 * width * d_model);
            for name in &halves {
                both.extend(checkpoint.tensor(name, &[width, d_model])?.data);
            }
            Ok(both)
        });
        names.matrix(g, &format!("{DOWN}.weight"), d_model, width, Role::Projection)?;
        Ok(first)
    }
}
