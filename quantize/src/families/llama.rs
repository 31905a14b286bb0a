//! Llama (`model_type` "llama"): attention, then a gated MLP, in every layer. The plain transformer that hybrids are measured by.

use super::attention::SelfAttention;
use super::mlp::{GatedMlp, activation};
use super::{Names, head_matrix, layers, text_graph};
use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::graph::{Graph, Role};
use brooklet::ops::Activation;

pub(super) fn build(checkpoint: &Checkpoint) -> Result<Graph<'_>, Error> {
    let config = &checkpoint.config;
    let d_model = config.size("hidden_size")?;
    let vocab = config.size("vocab_size")?;
    let eps = config.number_or("rms_norm_eps", 1e-6)? as f32;
    let mut g = text_graph(checkpoint, vocab)?;
    let shape = SelfAttention::new(config, d_model, None)?;
    let head_dim = shape.head_dim;
    let attention = shape.with_biases(config)?.with_rotary(&mut g, config, head_dim, 10_000.0)?;
    let mlp = GatedMlp {
        f: activation(config, "hidden_act", Activation::Silu)?,
        bias: config.flag_or("mlp_bias", false)?,
        ..GatedMlp::llama(config.size("intermediate_size")?)
    };
    let model = Names::new(checkpoint, "model.");
    let table = model.matrix(&mut g, "embed_tokens.weight", vocab, d_model, Role::Embedding)?;
    let x = g.embed(table, d_model, 1.0);
    for i in 0..layers(checkpoint)? {
        let layer = model.under(&format!("layers.{i}"));
        let normed = layer.rms_norm(&mut g, "input_layernorm.weight", x, eps)?;
        let y = attention.build(&mut g, &layer.under("self_attn"), normed)?;
        g.add(x, y, 1.0);
        let normed = layer.rms_norm(&mut g, "post_attention_layernorm.weight", x, eps)?;
        let y = mlp.build(&mut g, &layer.under("mlp"), normed)?;
        g.add(x, y, 1.0);
    }
    let normed = model.rms_norm(&mut g, "norm.weight", x, eps)?;
    let tied = config.flag_or("tie_word_embeddings", false)?;
    let head = head_matrix(&mut g, checkpoint, table, tied)?;
    g.head(head, None, normed, 1.0);
    Ok(g)
}
