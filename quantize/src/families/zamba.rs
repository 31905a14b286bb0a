//! Zamba (`model_type` "zamba"): Mamba layers whose inner channels are cut into heads, and one transformer block that several
//! layers share.

use super::mixer::{decay, named_conv, transpose};
use super::shared_block::{Adapters, Places, Shape, SharedBlock, hybrid_layers};
use super::{Names, head_matrix, layers, text_graph};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::Error;
use crate::graph::{Graph, Operand, Role};
use brooklet::ops::Scan;
use serde_json::json;

pub(super) fn build(checkpoint: &Checkpoint) -> Result<Graph<'_>, Error> {
    let config = &checkpoint.config;
    config.refuse_unless("hidden_mamba_act", &json!("silu"))?;
    let d_model = config.size("hidden_size")?;
    let vocab = config.size("vocab_size")?;
    let eps = config.number_or("rms_norm_eps", 1e-5)? as f32;
    let mixer = Mixer::new(config, d_model)?;
    let hybrid = match hybrid_layers(config, layers(checkpoint)?)? {
        Some(listed) => listed,
        None => periodic(config, layers(checkpoint)?)?,
    };
    let mut g = text_graph(checkpoint, vocab)?;
    let model = Names::new(checkpoint, "model.");
    let table = model.matrix(&mut g, "embed_tokens.weight", vocab, d_model, Role::Embedding)?;
    let embedding = g.embed(table, d_model, 1.0);
    // The residual next to the embedding: the shared block reads both.
    let both = g.concat([embedding, embedding]);
    let [x, _] = both.split([d_model; 2]);
    let layer = |i: usize| model.under(&format!("layers.{i}"));
    let users: Vec<Names<'_>> = (0..hybrid.len()).filter(|&i| hybrid[i]).map(|i| layer(i).under("shared_transf")).collect();
    let block = if users.is_empty() { None } else { Some(shared_block(&mut g, config, Places(users), d_model, eps)?) };
    for (i, is_hybrid) in hybrid.into_iter().enumerate() {
        let (names, input) = match &block {
            Some(block) if is_hybrid => {
                let y = block.build(&mut g, &Adapters::default(), both);
                let y = layer(i).linear(&mut g, "linear", d_model, y, false)?;
                g.add(y, x, 1.0);
                (layer(i).under("mamba_decoder"), y)
            }
            _ => (layer(i), x),
        };
        let normed = names.rms_norm(&mut g, "input_layernorm.weight", input, eps)?;
        let y = mixer.build(&mut g, &names.under("mamba"), normed)?;
        g.add(x, y, 1.0);
    }
    let normed = model.rms_norm(&mut g, "final_layernorm.weight", x, eps)?;
    let tied = config.flag_or("tie_word_embeddings", true)?;
    let head = head_matrix(&mut g, checkpoint, table, tied)?;
    g.head(head, None, normed, 1.0);
    Ok(g)
}

/// Without a list of layers: the third, then every `attn_layer_period` of the others, counted from the fourth.
fn periodic(config: &Config, layers: usize) -> Result<Vec<bool>, Error> {
    let period = config.maybe_size("attn_layer_period")?.unwrap_or(6);
    let offset = config.count_or("attn_layer_offset", 4)?;
    Ok((0..layers).map(|i| i == 2 || i >= 3 && (i - 3) % period == offset).collect())
}

fn shared_block<'a>(g: &mut Graph<'a>, config: &Config, places: Places<'a>, d_model: usize, eps: f32) -> Result<SharedBlock, Error> {
    let shape = Shape::new(config, d_model, config.size("intermediate_size")?, eps)?;
    let width = shape.mlp_width;
    SharedBlock::new(g, &places, shape, |g| {
        let halves = ["feed_forward.gate_proj.weight", "feed_forward.up_proj.weight"].map(|name| (places.of(name), name));
        // Refuses wrong shapes now, reads later.
        let [gate, up] = halves.map(|(names, name)| names.loader(name, width, d_model));
        let (gate, up) = (gate?, up?);
        let name = halves[0].0.full("feed_forward.gate_up_proj.weight");
        Ok(g.matrix(name, 2 * width, d_model, Role::Projection, move || Ok([gate()?, up()?].concat())))
    })
}

/// Mamba with `heads` groups of inner channels, each with a step size, B and C of its own.
struct Mixer {
    heads: usize,
    d_inner: usize,
    d_state: usize,
    d_conv: usize,
    dt_rank: usize,
    /// Whether in_proj and out_proj have biases.
    bias: bool,
    conv_bias: bool,
}

impl Mixer {
    fn new(config: &Config, d_model: usize) -> Result<Self, Error> {
        let heads = config.maybe_size("n_mamba_heads")?.unwrap_or(2);
        let d_inner = d_model * config.maybe_size("mamba_expand")?.unwrap_or(2);
        if !d_inner.is_multiple_of(heads) {
            return Err(config.error("n_mamba_heads", format!("is {heads}, which does not divide mamba_expand * hidden_size = {d_inner}")));
        }
        let dt_rank = config.size_or_auto("mamba_dt_rank", d_model.div_ceil(16))?;
        Ok(Mixer {
            heads,
            d_inner,
            d_state: config.maybe_size("mamba_d_state")?.unwrap_or(16),
            d_conv: config.maybe_size("mamba_d_conv")?.unwrap_or(4),
            dt_rank,
            bias: config.flag_or("mamba_proj_bias", false)?,
            conv_bias: config.flag_or("mamba_conv_bias", true)?,
        })
    }

    /// `out_proj(scan(conv(x)) * silu(z))` of a normed input, (d_model) to (d_model).
    fn build<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, input: Operand) -> Result<Operand, Error> {
        let (heads, d_inner, n, dt_rank, d_model) = (self.heads, self.d_inner, self.d_state, self.dt_rank, input.len as usize);
        let per_head = d_inner / heads;
        // On disk, rows of x and z take turns.
        let load = names.loader("in_proj.weight", 2 * d_inner, d_model)?;
        let in_proj = g.matrix(names.full("in_proj.weight"), 2 * d_inner, d_model, Role::Projection, move || Ok(apart(&load()?, d_model)));
        let in_bias = match self.bias {
            true => Some(g.array(names.full("in_proj.bias"), apart(&names.read("in_proj.bias", &[2 * d_inner])?, 1))),
            false => None,
        };
        let [x, z] = g.linear(in_proj, in_bias, input).split([d_inner; 2]);
        named_conv(g, names, "conv1d", x, self.d_conv, self.conv_bias, true)?;
        let (dt, b, c) = (g.value(d_inner), g.value(heads * n), g.value(heads * n));
        for head in 0..heads {
            let part = |whole: Operand| {
                let len = whole.len / heads as u32;
                Operand { at: whole.at + head as u32 * len, len, ..whole }
            };
            // Per head (dt_rank + 2 * d_state) rows: of the step size, of B, of C.
            let rows = |g: &mut Graph<'a>, from: usize, count: usize| {
                let first = head * (dt_rank + 2 * n) + from;
                names.rows(g, "x_proj_weight", &[heads, dt_rank + 2 * n, per_head], first..first + count, Role::StepSize)
            };
            let (w_dt, w_b, w_c) = (rows(g, 0, dt_rank)?, rows(g, dt_rank, n)?, rows(g, dt_rank + n, n)?);
            let low = g.linear(w_dt, None, part(x));
            g.linear_into(w_b, None, part(x), part(b));
            g.linear_into(w_c, None, part(x), part(c));
            let channels = head * per_head..(head + 1) * per_head;
            let dt_proj = names.rows(g, "dt_proj_weight", &[heads, per_head, dt_rank], channels, Role::StepSize)?;
            g.linear_into(dt_proj, None, low, part(dt));
        }
        let dt_bias = names.array(g, "dt_proj_bias", &[heads, per_head])?;
        let a_log = names.read("A_log", &[heads, per_head, n])?;
        let a = g.array(names.full("A"), transpose(&decay(&a_log), d_inner, n));
        let d = names.array(g, "D", &[heads, per_head])?;
        let (out, state) = Graph::later();
        let y = g.scan(Scan { x, dt, b, c, z: Some(z), out, a, d, dt_bias, heads: heads as u32, state });
        names.linear(g, "out_proj", d_model, y, self.bias)
    }
}

/// The even rows, then the odd ones.
fn apart(x: &[f32], cols: usize) -> Vec<f32> {
    let rows = |first| x.chunks_exact(cols).skip(first).step_by(2).flatten().copied();
    rows(0).chain(rows(1)).collect()
}
