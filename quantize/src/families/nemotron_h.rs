//! Nemotron-H and Nemotron 3 (`model_type` "nemotron_h"): every layer is one of Mamba-2, attention, MLP or experts.

use super::attention::SelfAttention;
use super::experts::{Experts, top_k};
use super::mamba2::dt_limit;
use super::mixer::{Gating, Mamba2};
use super::{Names, either, head_matrix, text_graph};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::Error;
use crate::graph::{Graph, Operand, Role};
use brooklet::ops::{Activation, MAX_GROUPS, Router};
use serde_json::json;

/// What a layer is.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Mamba,
    Attention,
    Mlp,
    Experts,
}

pub(super) fn build(checkpoint: &Checkpoint) -> Result<Graph<'_>, Error> {
    let config = &checkpoint.config;
    config.refuse_unless("mamba_hidden_act", &json!("silu"))?;
    config.refuse_unless("mlp_hidden_act", &json!("relu2"))?;
    config.refuse_unless("sliding_window", &json!(null))?;
    let d_model = config.size("hidden_size")?;
    let vocab = config.size("vocab_size")?;
    let eps = config.number_or(either(config, "layer_norm_epsilon", "rms_norm_eps"), 1e-5)? as f32;
    let kinds = kinds(config)?;
    let has = |kind| kinds.contains(&kind);
    let mamba = if has(Kind::Mamba) { Some(mamba(config, eps)?) } else { None };
    let attention = if has(Kind::Attention) { Some(attention(config, d_model)?) } else { None };
    let bias = config.flag_or("mlp_bias", false)?;
    let mut g = text_graph(checkpoint, vocab)?;
    let prefix = if checkpoint.has("model.norm_f.weight") { "model." } else { "backbone." };
    let backbone = Names::new(checkpoint, prefix);
    let table = backbone.matrix(&mut g, "embeddings.weight", vocab, d_model, Role::Embedding)?;
    let x = g.embed(table, d_model, 1.0);
    for (i, kind) in kinds.iter().enumerate() {
        let layer = backbone.under(&format!("layers.{i}"));
        let normed = layer.rms_norm(&mut g, "norm.weight", x, eps)?;
        let names = layer.under("mixer");
        let y = match (kind, &mamba, &attention) {
            (Kind::Mamba, Some(mamba), _) => mamba.build(&mut g, &names, normed)?,
            (Kind::Attention, _, Some(attention)) => {
                // The reference has none, whatever `attention_bias` says: the file knows.
                let has_bias = |name: &str| checkpoint.has(&names.full(&format!("{name}.bias")));
                let attention = SelfAttention { bias: has_bias("q_proj"), out_bias: has_bias("o_proj"), ..*attention };
                attention.build(&mut g, &names, normed)?
            }
            (Kind::Experts, ..) => experts(&mut g, config, &names, normed, bias)?,
            _ => mlp(&mut g, &names, config.size("intermediate_size")?, normed, bias)?,
        };
        g.add(x, y, 1.0);
    }
    let normed = backbone.rms_norm(&mut g, "norm_f.weight", x, eps)?;
    let tied = config.flag_or("tie_word_embeddings", false)?;
    let head = head_matrix(&mut g, checkpoint, table, tied)?;
    g.head(head, None, normed, 1.0);
    Ok(g)
}

/// The layers: a list in newer configs, a letter for each in older ones.
fn kinds(config: &Config) -> Result<Vec<Kind>, Error> {
    let pattern = "hybrid_override_pattern";
    let (key, words) = match ["layers_block_type", "layer_types"].into_iter().find(|key| config.value(key).is_some()) {
        Some(key) => (key, config.texts(key)?.into_iter().map(str::to_owned).collect::<Vec<_>>()),
        None => (pattern, config.text(pattern)?.chars().map(String::from).collect()),
    };
    let kind = |(i, word): (usize, &String)| match word.as_str() {
        "M" | "mamba" | "linear_attention" => Ok(Kind::Mamba),
        "*" | "attention" | "full_attention" => Ok(Kind::Attention),
        "-" | "mlp" => Ok(Kind::Mlp),
        "E" | "moe" => Ok(Kind::Experts),
        other => Err(config.error(key, format!("entry {i} is \"{other}\"; supported are M (mamba), * (attention), - (mlp) and E (moe)"))),
    };
    let kinds = words.iter().enumerate().map(kind).collect::<Result<Vec<_>, _>>()?;
    match config.maybe_size("num_hidden_layers")? {
        Some(layers) if layers != kinds.len() => {
            Err(config.error(key, format!("lists {} layers, num_hidden_layers says {layers}", kinds.len())))
        }
        _ => Ok(kinds),
    }
}

/// `down(relu(up(x))^2)`, (d_model) to (d_model).
fn mlp<'a>(g: &mut Graph<'a>, names: &Names<'a>, width: usize, x: Operand, bias: bool) -> Result<Operand, Error> {
    let y = names.linear(g, "up_proj", width, x, bias)?;
    g.activate(Activation::ReluSquared, y);
    names.linear(g, "down_proj", x.len as usize, y, bias)
}

/// Experts, between latent projections if there are any, plus the shared experts: (d_model) to (d_model).
fn experts<'a>(g: &mut Graph<'a>, config: &Config, names: &Names<'a>, x: Operand, bias: bool) -> Result<Operand, Error> {
    let count = config.maybe_size("n_routed_experts")?.unwrap_or(8);
    let top_k = top_k(config, "num_experts_per_tok", count, 2)?;
    let groups = config.maybe_size("n_group")?.unwrap_or(1);
    let top_groups = config.maybe_size("topk_group")?.unwrap_or(1);
    if !count.is_multiple_of(groups) || groups > MAX_GROUPS {
        return Err(config.error("n_group", format!("is {groups}, expected a divisor of the {count} experts, at most {MAX_GROUPS}")));
    }
    if top_groups > groups || top_groups * (count / groups) < top_k {
        return Err(config.error("topk_group", format!("is {top_groups}, which of {groups} groups leaves no {top_k} experts to choose")));
    }
    if names.checkpoint.has(&names.full("experts.0.up_proj.bias")) {
        return Err(config.error("mlp_bias", "is true, and the experts have biases; only the MLP and the shared experts may"));
    }
    let correction = names.array(g, "gate.e_score_correction_bias", &[count])?;
    let renormalize = if config.flag_or("norm_topk_prob", true)? { Some(1e-20) } else { None };
    let experts = Experts {
        count,
        top_k,
        width: config.size("moe_intermediate_size")?,
        gated: false,
        f: Activation::ReluSquared,
        router: Router::Sigmoid { bias: Some(correction), groups: groups as u32, top_groups: top_groups as u32, renormalize },
        scale: config.number_or("routed_scaling_factor", 1.0)? as f32,
    };
    let scores = experts.scores(g, names, "gate.weight", x)?;
    let latent = config.maybe_size("moe_latent_size")?;
    let input = latent.map_or(Ok(x), |latent| names.linear(g, "fc1_latent_proj", latent, x, bias))?;
    let mut y = experts.separate(g, &names.under("experts"), input, scores)?;
    if latent.is_some() {
        y = names.linear(g, "fc2_latent_proj", x.len as usize, y, bias)?;
    }
    let shared_width = config.size("moe_shared_expert_intermediate_size")?;
    let shared = mlp(g, &names.under("shared_experts"), shared_width, x, bias)?;
    g.add(y, shared, 1.0);
    Ok(y)
}

/// Here the inner width is heads times head_dim, whatever `expand` says.
fn mamba(config: &Config, eps: f32) -> Result<Mamba2, Error> {
    // There is a `mamba_proj_bias` as well, which the reference does not read.
    let bias = config.flag_or("use_bias", false)?;
    let groups = either(config, "n_groups", "mamba_n_groups");
    Mamba2 {
        heads: config.maybe_size("mamba_num_heads")?.unwrap_or(128),
        head_dim: config.maybe_size("mamba_head_dim")?.unwrap_or(64),
        d_state: config.maybe_size("ssm_state_size")?.unwrap_or(128),
        groups: config.maybe_size(groups)?.unwrap_or(8),
        d_conv: config.maybe_size(either(config, "conv_kernel", "mamba_d_conv"))?.unwrap_or(4),
        bias,
        out_bias: bias,
        gating: Gating::GateThenNorm,
        conv_bias: config.flag_or(either(config, "use_conv_bias", "mamba_conv_bias"), true)?,
        eps,
        // transformers' prefill never takes steps below `time_step_min`, its single steps do: training is not known to have had a bound.
        dt_limit: dt_limit(config, either(config, "time_step_limit", "mamba_dt_limit"))?,
    }
    .checked(config, groups)
}

fn attention(config: &Config, d_model: usize) -> Result<SelfAttention, Error> {
    // `attention_head_dim` is the older spelling.
    let head_dim = config.maybe_size("attention_head_dim")?.unwrap_or(128);
    SelfAttention::new(config, d_model, Some(8))?.with_head_dim(config, head_dim)
}
