//! Jamba (`model_type` "jamba"): Mamba with norms of dt, B and C, or attention without positions; then a gated MLP or a
//! mixture of them, in every layer.

use super::attention::SelfAttention;
use super::experts::top_k;
use super::mixer::{Mamba1, StepNorms};
use super::mlp::GatedMlp;
use super::{Names, either, head_matrix, layers, text_graph};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::Error;
use crate::graph::{Graph, Operand, Role};
use brooklet::ops::{Activation, Router};
use serde_json::json;

pub(super) fn build(checkpoint: &Checkpoint) -> Result<Graph<'_>, Error> {
    let config = &checkpoint.config;
    config.refuse_unless("hidden_act", &json!("silu"))?;
    config.refuse_unless("sliding_window", &json!(null))?;
    let d_model = config.size("hidden_size")?;
    let vocab = config.size("vocab_size")?;
    let eps = config.number_or("rms_norm_eps", 1e-6)? as f32;
    let mixer = Mamba1 {
        d_inner: d_model * config.maybe_size("mamba_expand")?.unwrap_or(2),
        d_state: config.maybe_size("mamba_d_state")?.unwrap_or(16),
        d_conv: config.maybe_size("mamba_d_conv")?.unwrap_or(4),
        dt_rank: config.size_or_auto("mamba_dt_rank", d_model.div_ceil(16))?,
        bias: config.flag_or("mamba_proj_bias", false)?,
        conv_bias: config.flag_or("mamba_conv_bias", true)?,
        norms: StepNorms::Learned(eps),
    };
    let attention = SelfAttention::new(config, d_model, Some(8))?;
    let is_attention = every(config, ["attn_layer_period", "attn_layer_offset"], [8, 4])?;
    let mlp = GatedMlp::llama(config.size("intermediate_size")?);
    let mixture = mixture(config)?;
    let is_mixture = every(config, ["expert_layer_period", "expert_layer_offset"], [2, 1])?;
    let mut g = text_graph(checkpoint, vocab)?;
    let model = Names::new(checkpoint, "model.");
    let table = model.matrix(&mut g, "embed_tokens.weight", vocab, d_model, Role::Embedding)?;
    let x = g.embed(table, d_model, 1.0);
    // The first published files call every MLP a mixture; a dense one has a single expert.
    let has = |part: &str| checkpoint.names().any(|name| name.contains(part));
    let [ff, ff_dense] = if has(".moe.") { ["moe", "moe.experts.0"] } else { ["feed_forward", "feed_forward"] };
    let ff_norm = if has(".pre_moe_layernorm.") { "pre_moe_layernorm.weight" } else { "pre_ff_layernorm.weight" };
    for i in 0..layers(checkpoint)? {
        let layer = model.under(&format!("layers.{i}"));
        let normed = layer.rms_norm(&mut g, "input_layernorm.weight", x, eps)?;
        let y = if is_attention(i) {
            attention.build(&mut g, &layer.under("self_attn"), normed)?
        } else {
            mixer.build(&mut g, &layer.under("mamba"), normed)?
        };
        g.add(x, y, 1.0);
        let normed = layer.rms_norm(&mut g, ff_norm, x, eps)?;
        let y = match &mixture {
            Some(mixture) if is_mixture(i) => mixture.build(&mut g, &layer.under(ff), normed, mlp.width)?,
            _ => mlp.build(&mut g, &layer.under(ff_dense), normed)?,
        };
        g.add(x, y, 1.0);
    }
    let normed = model.rms_norm(&mut g, "final_layernorm.weight", x, eps)?;
    let tied = config.flag_or("tie_word_embeddings", false)?;
    let head = head_matrix(&mut g, checkpoint, table, tied)?;
    g.head(head, None, normed, 1.0);
    Ok(g)
}

/// The layers `offset`, `offset + period`, and so on, by the keys of period and offset.
fn every(config: &Config, [period_key, offset_key]: [&str; 2], defaults: [usize; 2]) -> Result<impl Fn(usize) -> bool, Error> {
    let period = config.maybe_size(period_key)?.unwrap_or(defaults[0]);
    let offset = config.count_or(offset_key, defaults[1])?;
    if offset >= period {
        return Err(config.error(offset_key, format!("is {offset}, not below {period_key} {period}")));
    }
    Ok(move |layer| layer % period == offset)
}

/// Gated MLPs of which a router chooses a few.
struct Mixture {
    experts: usize,
    top_k: usize,
}

/// A single expert is a dense model.
fn mixture(config: &Config) -> Result<Option<Mixture>, Error> {
    match config.maybe_size(either(config, "num_experts", "num_local_experts"))?.unwrap_or(16) {
        1 => Ok(None),
        experts => Ok(Some(Mixture { experts, top_k: top_k(config, "num_experts_per_tok", experts, 2)? })),
    }
}

impl Mixture {
    /// The chosen experts' sum, weighted by a softmax over all of them; an expert's gate and up become one matrix.
    fn build<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, x: Operand, width: usize) -> Result<Operand, Error> {
        let (checkpoint, d_model) = (names.checkpoint, x.len as usize);
        let router = names.matrix(g, "router.weight", self.experts, d_model, Role::Router)?;
        let scores = g.linear(router, None, x);
        let experts_at = g.tensors.len() as u32;
        for e in 0..self.experts {
            let expert = names.under(&format!("experts.{e}"));
            let parts = ["gate_proj.weight", "up_proj.weight"].map(|name| expert.full(name));
            for part in &parts {
                checkpoint.expect(part, &[width, d_model])?;
            }
            g.matrix(expert.full("gate_up_proj.weight"), 2 * width, d_model, Role::Projection, move || {
                let [gate, up] = [&parts[0], &parts[1]].map(|part| checkpoint.tensor(part, &[width, d_model]));
                Ok([gate?.data, up?.data].concat())
            });
            expert.matrix(g, "down_proj.weight", d_model, width, Role::Projection)?;
        }
        let router = Router::Softmax { renormalize: false };
        Ok(g.moe(x, scores, experts_at, router, self.top_k, 1.0, true, Activation::Silu))
    }
}
