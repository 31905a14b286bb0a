//! Mamba (`model_type` "mamba"): `x += mixer(norm(x))` in every layer. Config and names as transformers writes them.

use super::mixer::{Mamba1, StepNorms};
use super::{Names, head_matrix, layers, text_graph};
use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::graph::{Graph, Role};
use serde_json::json;

pub(super) fn build(checkpoint: &Checkpoint) -> Result<Graph<'_>, Error> {
    build_with(checkpoint, StepNorms::None)
}

/// A Mamba whose mixers have the given norms.
pub(super) fn build_with(checkpoint: &Checkpoint, norms: StepNorms) -> Result<Graph<'_>, Error> {
    let config = &checkpoint.config;
    config.refuse_unless("hidden_act", &json!("silu"))?;
    let d_model = config.size("hidden_size")?;
    let vocab = config.size("vocab_size")?;
    let eps = config.number_or("layer_norm_epsilon", 1e-5)? as f32;
    let backbone = Names::new(checkpoint, "backbone.");
    // The published files are not of one mind about `expand` and `intermediate_size`: the projection itself knows.
    let in_proj = checkpoint.shape(&backbone.full("layers.0.mixer.in_proj.weight"))?;
    let d_inner = in_proj.first().map_or(0, |rows| rows / 2);
    let dt_rank = config.size_or_auto("time_step_rank", d_model.div_ceil(16))?;
    let mixer = Mamba1 {
        d_inner,
        d_state: config.maybe_size("state_size")?.unwrap_or(16),
        d_conv: config.maybe_size("conv_kernel")?.unwrap_or(4),
        dt_rank,
        bias: config.flag_or("use_bias", false)?,
        conv_bias: config.flag_or("use_conv_bias", true)?,
        norms,
    };
    let mut g = text_graph(checkpoint, vocab)?;
    let embedding = if checkpoint.has("backbone.embedding.weight") { "embedding.weight" } else { "embeddings.weight" };
    let table = backbone.matrix(&mut g, embedding, vocab, d_model, Role::Embedding)?;
    let x = g.embed(table, d_model, 1.0);
    for i in 0..layers(checkpoint)? {
        let layer = backbone.under(&format!("layers.{i}"));
        let normed = layer.rms_norm(&mut g, "norm.weight", x, eps)?;
        let y = mixer.build(&mut g, &layer.under("mixer"), normed)?;
        g.add(x, y, 1.0);
    }
    let normed = backbone.rms_norm(&mut g, "norm_f.weight", x, eps)?;
    let tied = config.flag_or("tie_word_embeddings", true)? || !checkpoint.has("lm_head.weight");
    let head = head_matrix(&mut g, checkpoint, table, tied)?;
    g.head(head, None, normed, 1.0);
    Ok(g)
}
