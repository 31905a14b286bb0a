//! Bamba (`model_type` "bamba"): Mamba-2 or attention with half-rotated heads, then a gated MLP, in every layer.

use super::attention::SelfAttention;
use super::granite_hybrid::mamba;
use super::mlp::GatedMlp;
use super::rotary::nested_rotary_dims;
use super::{Names, head_matrix, layers, text_graph};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::Error;
use crate::graph::{Graph, Role};
use serde_json::json;

pub(super) fn build(checkpoint: &Checkpoint) -> Result<Graph<'_>, Error> {
    let config = &checkpoint.config;
    config.refuse_unless("hidden_act", &json!("silu"))?;
    let d_model = config.size("hidden_size")?;
    let vocab = config.size("vocab_size")?;
    let eps = config.number_or("rms_norm_eps", 1e-5)? as f32;
    let mixer = mamba(config, d_model * config.maybe_size("mamba_expand")?.unwrap_or(2), eps)?;
    let mlp = GatedMlp { bias: config.flag_or("mlp_bias", false)?, ..GatedMlp::llama(config.size("intermediate_size")?) };
    let mut g = text_graph(checkpoint, vocab)?;
    let model = Names::new(checkpoint, "model.");
    let table = model.matrix(&mut g, "embed_tokens.weight", vocab, d_model, Role::Embedding)?;
    let x = g.embed(table, d_model, 1.0);
    let count = layers(checkpoint)?;
    let attention_layers = attention_layers(config, count)?;
    let attention = if attention_layers.is_empty() { None } else { Some(attention(&mut g, config, d_model)?) };
    for i in 0..count {
        let layer = model.under(&format!("layers.{i}"));
        let normed = layer.rms_norm(&mut g, "input_layernorm.weight", x, eps)?;
        let y = match &attention {
            Some(attention) if attention_layers.contains(&i) => attention.build(&mut g, &layer.under("self_attn"), normed)?,
            _ => mixer.build(&mut g, &layer.under("mamba"), normed)?,
        };
        g.add(x, y, 1.0);
        let normed = layer.rms_norm(&mut g, "pre_ff_layernorm.weight", x, eps)?;
        let y = mlp.build(&mut g, &layer.under("feed_forward"), normed)?;
        g.add(x, y, 1.0);
    }
    let normed = model.rms_norm(&mut g, "final_layernorm.weight", x, eps)?;
    let tied = config.flag_or("tie_word_embeddings", false)?;
    let head = head_matrix(&mut g, checkpoint, table, tied)?;
    g.head(head, None, normed, 1.0);
    Ok(g)
}

/// `attn_layer_indices`: which of the layers attend.
fn attention_layers(config: &Config, count: usize) -> Result<Vec<usize>, Error> {
    let key = "attn_layer_indices";
    let Some(value) = config.value(key) else { return Ok(Vec::new()) };
    let index = |v: &serde_json::Value| v.as_u64().map(|i| i as usize).filter(|i| *i < count);
    let indices = value.as_array().and_then(|list| list.iter().map(index).collect());
    indices.ok_or_else(|| config.error(key, format!("is {value}, expected a list of layers below {count}")))
}

fn attention(g: &mut Graph<'_>, config: &Config, d_model: usize) -> Result<SelfAttention, Error> {
    let shape = SelfAttention::new(config, d_model, Some(8))?;
    // transformers writes a half over a factor at the top.
    let dims = nested_rotary_dims(config, shape.head_dim, 0.5)?;
    config.refuse_unless("attn_rotary_emb", &json!(dims))?;
    shape.with_biases(config)?.with_rotary(g, config, dims, 10_000.0)
}
