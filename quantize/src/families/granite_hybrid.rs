//! Granite 4.0 hybrids (`model_type` "granitemoehybrid"): Mamba-2 or attention, then a gated MLP and maybe experts, in every
//! layer.

use super::attention::SelfAttention;
use super::experts::{Experts, top_k};
use super::mamba2::dt_limit;
use super::mixer::{Gating, Mamba2};
use super::mlp::{GateUp, GatedMlp};
use super::{Names, either, head_matrix, layers, text_graph};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::Error;
use crate::graph::{Graph, Role};
use brooklet::ops::{Activation, Router};
use serde_json::json;

pub(super) fn build(checkpoint: &Checkpoint) -> Result<Graph<'_>, Error> {
    let config = &checkpoint.config;
    config.refuse_unless("hidden_act", &json!("silu"))?;
    let d_model = config.size("hidden_size")?;
    let vocab = config.size("vocab_size")?;
    let eps = config.number_or("rms_norm_eps", 1e-6)? as f32;
    let residual = config.number_or("residual_multiplier", 1.0)? as f32;
    let mlp = GatedMlp {
        gate_up: GateUp::Fused("input_linear"),
        down: "output_linear",
        ..GatedMlp::llama(config.size("shared_intermediate_size")?)
    };
    // A config that does not say how many there are is of a model of the usual eight, or of one without: the file knows.
    let has_experts = checkpoint.has("model.layers.0.block_sparse_moe.router.layer.weight");
    let experts = match config.count_or("num_local_experts", if has_experts { 8 } else { 0 })? {
        0 => None,
        count => Some(Experts {
            count,
            top_k: top_k(config, "num_experts_per_tok", count, 2)?,
            width: config.size("intermediate_size")?,
            gated: true,
            f: Activation::Silu,
            router: Router::TopKSoftmax,
            scale: 1.0,
        }),
    };
    let mut g = text_graph(checkpoint, vocab)?;
    let model = Names::new(checkpoint, "model.");
    let table = model.matrix(&mut g, "embed_tokens.weight", vocab, d_model, Role::Embedding)?;
    let x = g.embed(table, d_model, config.number_or("embedding_multiplier", 1.0)? as f32);
    let key = either(config, "layer_types", "layers_block_type");
    let kinds = match config.value(key) {
        Some(_) => config.texts(key)?,
        None => vec!["mamba"; layers(checkpoint)?],
    };
    if kinds.len() != layers(checkpoint)? {
        return Err(config.error(key, format!("lists {} layers, num_hidden_layers says {}", kinds.len(), layers(checkpoint)?)));
    }
    let d_inner = d_model * config.maybe_size("mamba_expand")?.unwrap_or(2);
    let mixer = if kinds.iter().any(|k| is_mamba(k)) { Some(mamba(config, d_inner, eps)?) } else { None };
    let attention = if kinds.iter().all(|k| is_mamba(k)) { None } else { Some(attention(&mut g, config, d_model)?) };
    for (i, kind) in kinds.iter().enumerate() {
        let layer = model.under(&format!("layers.{i}"));
        let normed = layer.rms_norm(&mut g, "input_layernorm.weight", x, eps)?;
        let y = match (*kind, &mixer, &attention) {
            ("mamba" | "linear_attention", Some(mixer), _) => mixer.build(&mut g, &layer.under("mamba"), normed)?,
            ("attention" | "full_attention", _, Some(attention)) => attention.build(&mut g, &layer.under("self_attn"), normed)?,
            _ => return Err(config.error(key, format!("entry {i} is \"{kind}\"; supported are mamba and attention"))),
        };
        g.add(x, y, residual);
        let normed = layer.rms_norm(&mut g, "post_attention_layernorm.weight", x, eps)?;
        let y = mlp.build(&mut g, &layer.under("shared_mlp"), normed)?;
        if let Some(experts) = &experts {
            let moe = layer.under("block_sparse_moe");
            let scores = experts.scores(&mut g, &moe, "router.layer.weight", normed)?;
            let chosen = experts.stacked(&mut g, &moe, ["input_linear.weight", "output_linear.weight"], normed, scores)?;
            g.add(y, chosen, 1.0);
        }
        g.add(x, y, residual);
    }
    let normed = model.rms_norm(&mut g, "norm.weight", x, eps)?;
    let tied = config.flag_or("tie_word_embeddings", false)?;
    let head = head_matrix(&mut g, checkpoint, table, tied)?;
    let scaling = config.number_or("logits_scaling", 1.0)?;
    if scaling == 0.0 {
        return Err(config.error("logits_scaling", "is 0, and logits are divided by it"));
    }
    g.head(head, None, normed, (1.0 / scaling) as f32);
    Ok(g)
}

fn is_mamba(kind: &str) -> bool {
    matches!(kind, "mamba" | "linear_attention")
}

/// The Mamba-2 mixer that keys starting with `mamba_` describe, as hybrids have them.
pub(super) fn mamba(config: &Config, d_inner: usize, eps: f32) -> Result<Mamba2, Error> {
    let heads = config.size("mamba_n_heads")?;
    let head_dim = config.size_or_auto("mamba_d_head", d_inner / heads)?;
    if heads * head_dim != d_inner {
        return Err(config.error("mamba_d_head", format!("{heads} heads of {head_dim} are not the {d_inner} channels of the mixer")));
    }
    let bias = config.flag_or("mamba_proj_bias", false)?;
    Mamba2 {
        heads,
        head_dim,
        d_state: config.maybe_size("mamba_d_state")?.unwrap_or(256),
        groups: config.maybe_size("mamba_n_groups")?.unwrap_or(1),
        d_conv: config.maybe_size("mamba_d_conv")?.unwrap_or(4),
        bias,
        out_bias: bias,
        conv_bias: config.flag_or("mamba_conv_bias", true)?,
        gating: Gating::GateThenNorm,
        eps,
        dt_limit: dt_limit(config, "time_step_limit")?,
    }
    .checked(config, "mamba_n_groups")
}

fn attention(g: &mut Graph<'_>, config: &Config, d_model: usize) -> Result<SelfAttention, Error> {
    let shape = SelfAttention::new(config, d_model, None)?;
    let (scale, head_dim) = (config.number_or("attention_multiplier", 1.0)? as f32, shape.head_dim);
    let attention = SelfAttention { scale, ..shape.with_biases(config)? };
    match config.maybe_text("position_embedding_type")? {
        None | Some("nope") => Ok(attention),
        Some("rope") => attention.with_rotary(g, config, head_dim, 10_000.0),
        Some(other) => Err(config.error("position_embedding_type", format!("is \"{other}\"; supported are nope and rope"))),
    }
}
