//! Qwen3-Next and the text part of Qwen3.5: Gated DeltaNet or gated attention, then a gated MLP or experts, in every layer.

use super::attention::{HeadNorms, SelfAttention};
use super::experts::top_k;
use super::gated_delta_net::{GatedDeltaNet, by_part};
use super::mlp::GatedMlp;
use super::rotary::rotary_dims;
use super::{Names, head_matrix, layers_under, text_graph, token};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::Error;
use crate::graph::{Graph, Input, Operand, Role};
use brooklet::ops::{Activation, Router};
use serde_json::json;

pub(super) fn build(checkpoint: &Checkpoint) -> Result<Graph<'_>, Error> {
    // Models that also see pictures keep the text part's sizes one level down.
    let nested = checkpoint.config.maybe_object("text_config")?;
    let config = nested.as_ref().unwrap_or(&checkpoint.config);
    config.refuse_unless("hidden_act", &json!("silu"))?;
    let d_model = config.size("hidden_size")?;
    let vocab = config.size("vocab_size")?;
    let eps = config.number_or("rms_norm_eps", 1e-6)? as f32;
    let mut g = text_graph(checkpoint, vocab)?;
    if let Input::Tokens { bos, eos, .. } = &mut g.input {
        *bos = bos.or(token(config, "bos_token_id", vocab)?);
        *eos = eos.or(token(config, "eos_token_id", vocab)?);
    }
    let seeing = checkpoint.has("model.language_model.embed_tokens.weight");
    let model = Names::new(checkpoint, if seeing { "model.language_model." } else { "model." });
    let table = model.matrix(&mut g, "embed_tokens.weight", vocab, d_model, Role::Embedding)?;
    let x = g.embed(table, d_model, 1.0);
    let kinds = layer_kinds(config, layers_under(checkpoint, config, "num_hidden_layers")?)?;
    let mixer = if kinds.iter().any(|k| k == "linear_attention") { Some(GatedDeltaNet::new(config, eps)?) } else { None };
    let attention = if kinds.iter().any(|k| k == "full_attention") { Some(attention(&mut g, config, d_model, eps)?) } else { None };
    let dense = dense_layers(config)?;
    for (i, kind) in kinds.iter().enumerate() {
        let layer = model.under(&format!("layers.{i}"));
        let normed = norm(&mut g, &layer, "input_layernorm.weight", x, eps)?;
        let y = match (kind.as_str(), &mixer, &attention) {
            ("linear_attention", Some(mixer), _) => mixer.build(&mut g, &layer.under("linear_attn"), normed)?,
            ("full_attention", _, Some(attention)) => gated_attention(&mut g, attention, &layer.under("self_attn"), normed)?,
            _ => {
                let problem = format!("entry {i} is \"{kind}\"; supported are linear_attention and full_attention");
                return Err(config.error("layer_types", problem));
            }
        };
        g.add(x, y, 1.0);
        let normed = norm(&mut g, &layer, "post_attention_layernorm.weight", x, eps)?;
        let mlp = layer.under("mlp");
        if dense(i) {
            let y = GatedMlp::llama(config.size("intermediate_size")?).build(&mut g, &mlp, normed)?;
            g.add(x, y, 1.0);
        } else {
            let [chosen, shared] = experts(&mut g, config, &mlp, normed)?;
            g.add(x, chosen, 1.0);
            g.add(x, shared, 1.0);
        }
    }
    let normed = norm(&mut g, &model, "norm.weight", x, eps)?;
    // Where both configs have the key, the outer one counts: the head is the whole model's.
    let tied = checkpoint.config.flag_or("tie_word_embeddings", config.flag_or("tie_word_embeddings", false)?)?;
    let head = head_matrix(&mut g, checkpoint, table, tied)?;
    g.head(head, None, normed, 1.0);
    Ok(g)
}

/// `layer_types`, or every `full_attention_interval`-th layer with attention.
fn layer_kinds(config: &Config, layers: usize) -> Result<Vec<String>, Error> {
    if config.value("layer_types").is_none() {
        let interval = config.maybe_size("full_attention_interval")?.unwrap_or(4);
        let kind = |i: usize| if (i + 1).is_multiple_of(interval) { "full_attention" } else { "linear_attention" };
        return Ok((0..layers).map(|i| kind(i).to_owned()).collect());
    }
    let kinds = config.texts("layer_types")?;
    if kinds.len() != layers {
        return Err(config.error("layer_types", format!("lists {} layers, num_hidden_layers says {layers}", kinds.len())));
    }
    Ok(kinds.into_iter().map(str::to_owned).collect())
}

/// Which layers have a plain MLP instead of experts.
fn dense_layers(config: &Config) -> Result<impl Fn(usize) -> bool, Error> {
    let has_experts = config.count_or("num_experts", 0)? > 0;
    let step = config.maybe_size("decoder_sparse_step")?.unwrap_or(1);
    let listed = if config.value("mlp_only_layers").is_some() { config.numbers("mlp_only_layers")? } else { Vec::new() };
    Ok(move |i: usize| !has_experts || !(i + 1).is_multiple_of(step) || listed.contains(&(i as f32)))
}

/// Root-mean-square norm whose file holds `w` for a factor of `1 + w`.
fn norm<'a>(g: &mut Graph<'a>, names: &Names<'a>, name: &str, x: Operand, eps: f32) -> Result<Operand, Error> {
    let weight = names.read(name, &[x.len as usize])?.into_iter().map(|w| 1.0 + w).collect();
    let weight = g.array(names.full(name), weight);
    Ok(g.rms_norm(x, weight, eps))
}

fn attention(g: &mut Graph<'_>, config: &Config, d_model: usize, eps: f32) -> Result<SelfAttention, Error> {
    let kv_heads = if config.maybe_text("model_type")? == Some("qwen3_5_text") { 4 } else { 2 };
    let bias = config.flag_or("attention_bias", false)?;
    let head_norms = Some(HeadNorms { names: ["q_norm", "k_norm"], eps, plus_one: true, rotated: (0, 1.0) });
    let shape = SelfAttention::new(config, d_model, Some(kv_heads))?.with_head_dim(config, 256)?;
    let dims = rotary_dims(config, shape.head_dim, 0.25)?;
    SelfAttention { bias, out_bias: bias, head_norms, ..shape }.with_rotary(g, config, dims, 10_000.0)
}

/// Attention whose output is multiplied by the sigmoid of a gate; on disk, a head's query and gate are neighbours.
fn gated_attention<'a>(g: &mut Graph<'a>, attention: &SelfAttention, names: &Names<'a>, x: Operand) -> Result<Operand, Error> {
    let (width, kv_width) = (attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim);
    let order = || by_part(attention.heads, &[attention.head_dim, attention.head_dim]);
    let bias = match attention.bias {
        true => {
            let bias = names.read("q_proj.bias", &[2 * width])?;
            Some(g.array(names.full("q_proj.bias"), order().into_iter().map(|row| bias[row]).collect()))
        }
        false => None,
    };
    let weight = names.reordered(g, "q_proj.weight", [2 * width, x.len as usize], Role::Projection, order)?;
    let [q, gate] = g.linear(weight, bias, x).split([width, width]);
    let k = names.linear(g, "k_proj", kv_width, x, attention.bias)?;
    let v = names.linear(g, "v_proj", kv_width, x, attention.bias)?;
    let y = attention.attend(g, names, [q, k, v])?;
    g.activate(Activation::Sigmoid, gate);
    g.multiply(y, gate);
    names.linear(g, "o_proj", x.len as usize, y, attention.out_bias)
}

/// What the chosen experts and the shared one give, each (d_model).
fn experts<'a>(g: &mut Graph<'a>, config: &Config, names: &Names<'a>, x: Operand) -> Result<[Operand; 2], Error> {
    let count = config.size("num_experts")?;
    let usual = if config.maybe_text("model_type")? == Some("qwen3_next") { 10 } else { 8 };
    let top_k = top_k(config, "num_experts_per_tok", count, usual)?;
    let width = config.maybe_size("moe_intermediate_size")?.unwrap_or(512);
    // Qwen3.5 has no such key and always does.
    let renormalize = config.flag_or("norm_topk_prob", true)?;
    let router = names.matrix(g, "gate.weight", count, x.len as usize, Role::Router)?;
    let scores = g.linear(router, None, x);
    let first = g.tensors.len() as u32;
    for expert in 0..count {
        expert_matrices(g, &names.under("experts"), expert, count, width, x.len as usize)?;
    }
    let chosen = g.moe(x, scores, first, Router::Softmax { renormalize }, top_k, 1.0, true, Activation::Silu);

    let shared_width = config.maybe_size("shared_expert_intermediate_size")?.unwrap_or(512);
    let shared = GatedMlp::llama(shared_width).build(g, &names.under("shared_expert"), x)?;
    let gate = names.matrix(g, "shared_expert_gate.weight", 1, x.len as usize, Role::Router)?;
    let gate = g.linear(gate, None, x);
    g.activate(Activation::Sigmoid, gate);
    g.scale_by(shared, gate);
    Ok([chosen, shared])
}

/// An expert's two matrices: from stacks over all experts as transformers 5 keeps them, or one by one as they are published.
fn expert_matrices<'a>(
    g: &mut Graph<'a>,
    names: &Names<'a>,
    expert: usize,
    count: usize,
    width: usize,
    d_model: usize,
) -> Result<(), Error> {
    let checkpoint = names.checkpoint;
    let own = names.under(&expert.to_string());
    let stacks = names.has("gate_up_proj").then(|| [names.full("gate_up_proj"), names.full("down_proj")]);
    let parts = ["gate_proj.weight", "up_proj.weight"].map(|name| own.full(name));
    let wide = own.full("gate_up_proj.weight");
    let Some([gate_up, down]) = stacks else {
        for part in &parts {
            checkpoint.expect(part, &[width, d_model])?;
        }
        g.matrix(wide, 2 * width, d_model, Role::Projection, move || {
            let [gate, up] = parts.each_ref().map(|name| checkpoint.tensor(name, &[width, d_model]));
            Ok([gate?.data, up?.data].concat())
        });
        own.matrix(g, "down_proj.weight", d_model, width, Role::Projection)?;
        return Ok(());
    };
    for (name, stack, [rows, cols]) in [(wide, gate_up, [2 * width, d_model]), (own.full("down_proj.weight"), down, [d_model, width])] {
        checkpoint.expect(&stack, &[count, rows, cols])?;
        g.matrix(name, rows, cols, Role::Projection, move || {
            checkpoint.numbers(&stack, &[count, rows, cols], expert * rows * cols..(expert + 1) * rows * cols)
        });
    }
    Ok(())
}
