//! Mamba-2 (`model_type` "mamba2"): `x += mixer(norm(x))` in every layer. Config and names as transformers writes them.

use super::mixer::{Gating, Mamba2};
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
    let eps = config.number_or("layer_norm_epsilon", 1e-5)? as f32;
    let bias = config.flag_or("use_bias", false)?;
    let mixer = Mamba2 {
        heads: config.size("num_heads")?,
        head_dim: config.maybe_size("head_dim")?.unwrap_or(64),
        d_state: config.maybe_size("state_size")?.unwrap_or(128),
        groups: config.maybe_size("n_groups")?.unwrap_or(8),
        d_conv: config.maybe_size("conv_kernel")?.unwrap_or(4),
        bias,
        out_bias: bias,
        conv_bias: config.flag_or("use_conv_bias", true)?,
        gating: Gating::GateThenNorm,
        eps,
        dt_limit: dt_limit(config, "time_step_limit")?,
    }
    .checked(config, "n_groups")?;
    let mut g = text_graph(checkpoint, vocab)?;
    let prefix = if checkpoint.has("model.backbone.norm_f.weight") { "model.backbone." } else { "backbone." };
    let backbone = Names::new(checkpoint, prefix);
    let table = backbone.matrix(&mut g, "embeddings.weight", vocab, d_model, Role::Embedding)?;
    let x = g.embed(table, d_model, 1.0);
    for i in 0..layers(checkpoint)? {
        let layer = backbone.under(&format!("layers.{i}"));
        let normed = layer.rms_norm(&mut g, "norm.weight", x, eps)?;
        let y = mixer.build(&mut g, &layer.under("mixer"), normed)?;
        g.add(x, y, 1.0);
    }
    let normed = backbone.rms_norm(&mut g, "norm_f.weight", x, eps)?;
    let tied = config.flag_or("tie_word_embeddings", false)?;
    let head = head_matrix(&mut g, checkpoint, table, tied)?;
    g.head(head, None, normed, 1.0);
    Ok(g)
}

/// Bounds of the step size: two numbers, the upper one often infinity, which JSON has no word for.
pub(super) fn dt_limit(config: &Config, key: &str) -> Result<(f32, f32), Error> {
    let Some(value) = config.value(key) else { return Ok((0.0, f32::INFINITY)) };
    let bound = |v: &serde_json::Value| {
        let infinite = |v: &serde_json::Value| matches!(v.as_str(), Some("Infinity" | "inf"));
        if infinite(v) || v.get("__float__").is_some_and(infinite) { Some(f32::INFINITY) } else { v.as_f64().map(|x| x as f32) }
    };
    match value.as_array().map(|bounds| bounds.iter().map(bound).collect::<Vec<_>>()).as_deref() {
        Some([Some(lo), Some(hi)]) if lo <= hi => Ok((*lo, *hi)),
        _ => Err(config.error(key, format!("is {value}, expected two numbers, the lower one first"))),
    }
}
