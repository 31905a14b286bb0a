//! LFM3 (`model_type` "lfm3"): a short convolution between two gates, or attention over everything or over a window, whose heads are
//! gated; then a gated MLP. Norms before and behind both.

use super::attention::{HeadNorms, SelfAttention};
use super::lfm2::ShortConv;
use super::mlp::{GateUp, GatedMlp};
use super::{Names, head_matrix, layers, text_graph};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::Error;
use crate::graph::{Graph, Operand, Role};
use brooklet::ops::{Activation, Rotary};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Conv,
    Full,
    Sliding,
}

pub(super) fn build(checkpoint: &Checkpoint) -> Result<Graph<'_>, Error> {
    let config = &checkpoint.config;
    let d_model = config.size("hidden_size")?;
    let vocab = config.size("vocab_size")?;
    let eps = config.number_or("norm_eps", 1e-5)? as f32;
    let sandwich = config.flag_or("use_sandwich_norm", true)?;
    let gated = config.flag_or("use_attention_gate", true)?;
    let conv = ShortConv { taps: config.maybe_size("conv_L_cache")?.unwrap_or(7), bias: config.flag_or("conv_bias", false)? };
    let mlp = GatedMlp { gate_up: GateUp::Split("w1", "w3"), down: "w2", ..GatedMlp::llama(config.size("intermediate_size")?) };
    let kinds = kinds(config, layers(checkpoint)?)?;
    let mut g = text_graph(checkpoint, vocab)?;
    let mut attention = |kind| if kinds.contains(&kind) { attention(&mut g, config, d_model, eps, kind).map(Some) } else { Ok(None) };
    let (full, sliding) = (attention(Kind::Full)?, attention(Kind::Sliding)?);
    let model = Names::new(checkpoint, "model.");
    let table = model.matrix(&mut g, "embed_tokens.weight", vocab, d_model, Role::Embedding)?;
    let x = g.embed(table, d_model, 1.0);
    for (i, kind) in kinds.into_iter().enumerate() {
        let layer = model.under(&format!("layers.{i}"));
        let normed = layer.rms_norm(&mut g, "operator_norm.weight", x, eps)?;
        let attention = match kind {
            Kind::Conv => None,
            Kind::Full => full.as_ref(),
            Kind::Sliding => sliding.as_ref(),
        };
        let mut y = match attention {
            Some(attention) => attend(&mut g, &layer.under("self_attn"), attention, gated, normed)?,
            None => conv.build(&mut g, &layer.under("conv"), normed)?,
        };
        if sandwich {
            y = layer.rms_norm(&mut g, "post_operator_norm.weight", y, eps)?;
        }
        g.add(x, y, 1.0);
        let normed = layer.rms_norm(&mut g, "ffn_norm.weight", x, eps)?;
        let mut y = mlp.build(&mut g, &layer.under("feed_forward"), normed)?;
        if sandwich {
            y = layer.rms_norm(&mut g, "post_ffn_norm.weight", y, eps)?;
        }
        g.add(x, y, 1.0);
    }
    // The name notwithstanding, this is the final norm.
    let normed = model.rms_norm(&mut g, "embedding_norm.weight", x, eps)?;
    let head = head_matrix(&mut g, checkpoint, table, config.flag_or("tie_word_embeddings", true)?)?;
    g.head(head, None, normed, 1.0);
    Ok(g)
}

/// What each layer is.
fn kinds(config: &Config, layers: usize) -> Result<Vec<Kind>, Error> {
    if config.value("layer_types").is_none() {
        let kind = |i: usize| match i % 4 {
            2 => Kind::Full,
            0 if i > 0 => Kind::Sliding,
            _ => Kind::Conv,
        };
        return Ok((0..layers).map(kind).collect());
    }
    let kinds = config.texts("layer_types")?;
    if kinds.len() != layers {
        return Err(config.error("layer_types", format!("lists {} layers, num_hidden_layers says {layers}", kinds.len())));
    }
    let kind = |(i, kind): (usize, &str)| match kind {
        "conv" => Ok(Kind::Conv),
        "full_attention" | "attention" => Ok(Kind::Full),
        "sliding_attention" => Ok(Kind::Sliding),
        other => {
            Err(config.error("layer_types", format!("entry {i} is \"{other}\"; supported are conv, full_attention and sliding_attention")))
        }
    };
    kinds.into_iter().enumerate().map(kind).collect()
}

fn attention(g: &mut Graph<'_>, config: &Config, d_model: usize, eps: f32, kind: Kind) -> Result<SelfAttention, Error> {
    let shape = SelfAttention::new(config, d_model, Some(4))?.with_head_dim(config, 128)?;
    let bias = config.flag_or("attention_bias", false)?;
    let (name, window, theta, share) = match kind {
        Kind::Sliding => ("sliding_attention", Some(config.maybe_size("sliding_window")?.unwrap_or(256)), 1e4, 1.0),
        _ => ("full_attention", None, 1e6, 0.5),
    };
    let rotary = rotary(g, config, name, shape.head_dim, theta, share)?;
    let norms = HeadNorms { names: ["q_norm", "k_norm"], eps, plus_one: false, rotated: (0, 1.0) };
    Ok(SelfAttention { bias, out_bias: bias, head_norms: Some(norms), rotary: Some(rotary), window, ..shape })
}

/// The rotary angles of one kind of layer. "proportional": the slow share of the dimensions stands still, and the others turn as
/// if all did.
fn rotary(g: &mut Graph<'_>, config: &Config, kind: &str, head_dim: usize, theta: f64, share: f64) -> Result<Rotary, Error> {
    let rope = match config.maybe_object("rope_parameters")? {
        Some(kinds) => Some(kinds.object(kind)?),
        None => None,
    };
    let (theta, share, factor) = match &rope {
        None => (theta, share, 1.0),
        Some(rope) => match rope.maybe_text("rope_type")? {
            None | Some("default") => (rope.number_or("rope_theta", theta)?, 1.0, 1.0),
            Some("proportional") => {
                (rope.number_or("rope_theta", theta)?, rope.number_or("partial_rotary_factor", 1.0)?, rope.number_or("factor", 1.0)?)
            }
            Some(other) => return Err(rope.error("rope_type", format!("is \"{other}\"; supported are default and proportional"))),
        },
    };
    if !(theta >= 1.0 && factor > 0.0 && (0.0..=1.0).contains(&share)) {
        let problem = format!("has theta {theta}, partial_rotary_factor {share}, factor {factor}; expected 1 or more, 0 to 1, above 0");
        return Err(config.error("rope_parameters", problem));
    }
    let turning = (share * head_dim as f64 / 2.0) as usize;
    let turn = |i: usize| if i < turning { theta.powf(-2.0 * i as f64 / head_dim as f64) / factor } else { 0.0 };
    Ok(g.turns(format!("rotary.{kind}.turns"), &(0..head_dim / 2).map(turn).collect::<Vec<_>>()))
}

/// Attention whose heads are scaled by a gate each.
fn attend<'a>(g: &mut Graph<'a>, names: &Names<'a>, attention: &SelfAttention, gated: bool, x: Operand) -> Result<Operand, Error> {
    let heads = attention.heads(g, names, x)?;
    if gated {
        // On disk; transformers calls it g_proj in memory.
        let gate = names.linear(g, "gate_proj", attention.heads, x, false)?;
        g.activate(Activation::Sigmoid, gate);
        g.scale_by(heads, gate);
    }
    names.linear(g, attention.out_proj, x.len as usize, heads, attention.out_bias)
}
