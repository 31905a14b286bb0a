//! RecurrentGemma (`model_type` "recurrent_gemma", Griffin): a gated linear recurrence, or attention over a window, then a
//! gated MLP, in every layer.

use super::attention::SelfAttention;
use super::mixer::{named_conv, transpose};
use super::mlp::{GatedMlp, activation};
use super::rotary::rotary_dims;
use super::{Names, head_matrix, layers, text_graph};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::Error;
use crate::graph::{Graph, Operand, Role};
use brooklet::ops::Activation;
use serde_json::json;

pub(super) fn build(checkpoint: &Checkpoint) -> Result<Graph<'_>, Error> {
    let config = &checkpoint.config;
    config.refuse_unless("embeddings_scale_by_sqrt_dim", &json!(true))?;
    let d_model = config.size("hidden_size")?;
    let vocab = config.size("vocab_size")?;
    let eps = config.number_or("rms_norm_eps", 1e-6)? as f32;
    let f = activation(config, "hidden_activation", Activation::GeluTanh)?;
    let cap = config.number_or("logits_soft_cap", 30.0)? as f32;
    if cap <= 0.0 {
        return Err(config.error("logits_soft_cap", format!("is {cap}, expected more than 0")));
    }
    let kinds = match config.value("block_types") {
        Some(_) => config.texts("block_types")?,
        None => vec!["recurrent", "recurrent", "attention"],
    };
    if let Some(other) = kinds.iter().find(|kind| !matches!(**kind, "recurrent" | "attention")) {
        return Err(config.error("block_types", format!("has \"{other}\"; supported are recurrent and attention")));
    }
    let mut g = text_graph(checkpoint, vocab)?;
    let recurrent = Recurrent::new(config, d_model, f)?;
    let attention = attention(&mut g, config, d_model)?;
    // The config counts gate and up together.
    let mlp = GatedMlp { f, bias: true, ..GatedMlp::llama(config.size("intermediate_size")? / 2) };
    let model = Names::new(checkpoint, "model.");
    let table = model.matrix(&mut g, "embed_tokens.weight", vocab, d_model, Role::Embedding)?;
    let x = g.embed(table, d_model, to_bf16((d_model as f32).sqrt()));
    for (i, kind) in (0..layers(checkpoint)?).zip(kinds.iter().cycle()) {
        let layer = model.under(&format!("layers.{i}"));
        let temporal = layer.under("temporal_block");
        let normed = norm(&mut g, &layer, "temporal_pre_norm.weight", x, eps)?;
        let y = match *kind {
            "attention" => attention.build(&mut g, &temporal, normed)?,
            _ => recurrent.build(&mut g, &temporal, normed)?,
        };
        g.add(x, y, 1.0);
        let normed = norm(&mut g, &layer, "channel_pre_norm.weight", x, eps)?;
        let y = mlp.build(&mut g, &layer.under("mlp_block"), normed)?;
        g.add(x, y, 1.0);
    }
    let normed = norm(&mut g, &model, "final_norm.weight", x, eps)?;
    let tied = config.flag_or("tie_word_embeddings", true)?;
    let head = head_matrix(&mut g, checkpoint, table, tied)?;
    g.capped_head(head, None, normed, 1.0, cap);
    Ok(g)
}

/// Root-mean-square norm whose factor is one more than what is stored.
fn norm<'a>(g: &mut Graph<'a>, names: &Names<'a>, name: &str, x: Operand, eps: f32) -> Result<Operand, Error> {
    let weight = names.read(name, &[x.len as usize])?.iter().map(|w| 1.0 + w).collect();
    let weight = g.array(names.full(name), weight);
    Ok(g.rms_norm(x, weight, eps))
}

/// The models were trained with this factor in bfloat16: the nearest one, ties to even.
fn to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

/// Multi-query attention over the latest positions, half of each head rotated.
fn attention(g: &mut Graph<'_>, config: &Config, d_model: usize) -> Result<SelfAttention, Error> {
    let shape = SelfAttention::new(config, d_model, None)?;
    let dims = rotary_dims(config, shape.head_dim, 0.5)?;
    let bias = config.flag_or("attention_bias", false)?;
    let window = Some(config.maybe_size("attention_window_size")?.unwrap_or(2048));
    SelfAttention { bias, out_bias: true, window, ..shape }.with_rotary(g, config, dims, 10_000.0)
}

/// Griffin's recurrent block.
struct Recurrent {
    width: usize,
    /// Blocks that the matrices of the gates consist of.
    blocks: usize,
    taps: usize,
    f: Activation,
}

impl Recurrent {
    fn new(config: &Config, d_model: usize, f: Activation) -> Result<Self, Error> {
        let width = config.maybe_size("lru_width")?.unwrap_or(d_model);
        let blocks = config.size("num_attention_heads")?;
        if !width.is_multiple_of(blocks) {
            return Err(config.error("lru_width", format!("is {width}, which {blocks} heads do not divide")));
        }
        Ok(Recurrent { width, blocks, taps: config.maybe_size("conv1d_width")?.unwrap_or(4), f })
    }

    /// `linear_out(rg_lru(conv(linear_x)) * f(linear_y))` of a normed input, (d_model) to (d_model).
    fn build<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, input: Operand) -> Result<Operand, Error> {
        let y = names.linear(g, "linear_y", self.width, input, true)?;
        g.activate(self.f, y);
        let x = names.linear(g, "linear_x", self.width, input, true)?;
        named_conv(g, names, "conv_1d", x, self.taps, true, false)?;
        let unit = names.under("rg_lru");
        let input_gate = self.gate(g, &unit, "input_gate", x)?;
        let recurrence_gate = self.gate(g, &unit, "recurrent_gate", x)?;
        let decay = unit.read("recurrent_param", &[self.width])?.iter().map(|&p| -8.0 * softplus(p)).collect();
        let decay = g.array(unit.full("decay"), decay);
        g.rg_lru(x, input_gate, recurrence_gate, decay);
        g.multiply(x, y);
        names.linear(g, "linear_out", input.len as usize, x, true)
    }

    /// A gate before its sigmoid: each block of `x` has a matrix of its own, on disk (blocks, inputs, outputs).
    fn gate<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, name: &str, x: Operand) -> Result<Operand, Error> {
        let (blocks, width, checkpoint) = (self.blocks, self.width / self.blocks, names.checkpoint);
        let weight = names.full(&format!("{name}_weight"));
        let bias_name = format!("{name}_bias");
        let bias = names.read(&bias_name, &[blocks, width])?;
        let shape = [blocks, width, width];
        checkpoint.tensor(&weight, &shape)?;
        let mut parts = Vec::with_capacity(blocks);
        for (i, bias) in bias.chunks_exact(width).enumerate() {
            let of = weight.clone();
            // Small and behind two exponentials, like a step size.
            let matrix = g.matrix(format!("{weight}.{i}"), width, width, Role::StepSize, move || {
                let all = checkpoint.tensor(&of, &shape)?.data;
                Ok(transpose(&all[i * width * width..][..width * width], width, width))
            });
            let bias = g.array(names.full(&format!("{bias_name}.{i}")), bias.to_vec());
            parts.push((matrix, Some(bias)));
        }
        Ok(g.block_linear(&parts, x))
    }
}

/// `ln(1 + e^x)`
fn softplus(x: f32) -> f32 {
    let x = f64::from(x);
    (x.max(0.0) + (-x.abs()).exp().ln_1p()) as f32
}
