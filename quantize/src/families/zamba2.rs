//! Zamba2 (`model_type` "zamba2"): Mamba-2 layers, and a few transformer blocks that layers share in turn, each use with low-rank
//! additions of its own.

use super::mamba2::dt_limit;
use super::mixer::{Gating, Mamba2};
use super::rotary::rotary;
use super::shared_block::{Adapter, Adapters, Places, Shape, SharedBlock, hybrid_layers};
use super::{Names, head_matrix, layers, text_graph};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::Error;
use crate::graph::{Graph, Role};
use serde_json::json;

/// Epsilon of the gated norm: no key has it.
const GATED_NORM_EPS: f32 = 1e-5;

pub(super) fn build(checkpoint: &Checkpoint) -> Result<Graph<'_>, Error> {
    let config = &checkpoint.config;
    let d_model = config.size("hidden_size")?;
    let vocab = config.size("vocab_size")?;
    let eps = config.number_or("rms_norm_eps", 1e-5)? as f32;
    let mixer = mamba(config, d_model)?;
    let hybrid = hybrid_layers(config, layers(checkpoint)?)?;
    let hybrid = hybrid.ok_or_else(|| config.error("layers_block_type", "is missing; is this the model's own config.json?"))?;
    let mut g = text_graph(checkpoint, vocab)?;
    let model = Names::new(checkpoint, "model.");
    let table = model.matrix(&mut g, "embed_tokens.weight", vocab, d_model, Role::Embedding)?;
    let embedding = g.embed(table, d_model, 1.0);
    // The residual next to the embedding: the shared blocks read both.
    let both = g.concat([embedding, embedding]);
    let [x, _] = both.split([d_model; 2]);
    let layer = |i: usize| model.under(&format!("layers.{i}"));
    let users: Vec<usize> = (0..hybrid.len()).filter(|&i| hybrid[i]).collect();
    let blocks = if users.is_empty() { Vec::new() } else { blocks(&mut g, config, d_model, eps, &users, layer)? };
    let mut uses = (0..users.len()).map(|j| (j, &blocks[j % blocks.len()]));
    for (i, is_hybrid) in hybrid.into_iter().enumerate() {
        let (names, input) = match if is_hybrid { uses.next() } else { None } {
            Some((j, block)) => {
                let adapters = block.adapters(&mut g, j)?;
                let y = block.shared.build(&mut g, &adapters, both);
                let y = layer(i).linear(&mut g, "linear", d_model, y, false)?;
                g.add(y, x, 1.0);
                (layer(i).under("mamba_decoder"), y)
            }
            None => (layer(i), x),
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

/// A shared block and where its adapters are.
struct Block<'a> {
    shared: SharedBlock,
    places: Places<'a>,
    shape: Shape,
    rank: usize,
    /// Whether queries, keys and values have adapters too.
    in_attention: bool,
}

/// The blocks: use `j`, in layer `users[j]`, is one of block `j` modulo their number.
fn blocks<'a>(
    g: &mut Graph<'a>,
    config: &Config,
    d_model: usize,
    eps: f32,
    users: &[usize],
    layer: impl Fn(usize) -> Names<'a>,
) -> Result<Vec<Block<'a>>, Error> {
    let count = config.maybe_size("num_mem_blocks")?.unwrap_or(1);
    let mut shape = Shape::new(config, d_model, config.maybe_size("intermediate_size")?.unwrap_or(4 * d_model), eps)?;
    shape.bias = config.flag_or("add_bias_linear", false)?;
    if config.flag_or("use_mem_rope", false)? {
        // It changes the angles in one implementation and not in another.
        config.refuse_unless("use_long_context", &json!(false))?;
        let (rotary, factor) = rotary(g, config, shape.head_dim, 10_000.0)?;
        (shape.rotary, shape.scale) = (Some(rotary), shape.scale * factor);
    }
    let rank = config.maybe_size("adapter_rank")?.unwrap_or(128);
    let in_attention = config.flag_or("use_shared_attention_adapter", false)?;
    let block = |b: usize| {
        let places = Places(users.iter().skip(b).step_by(count).map(|&i| layer(i).under("shared_transformer")).collect());
        let shared = SharedBlock::new(g, &places, shape, |g| {
            let name = "feed_forward.gate_up_proj.weight";
            places.of(name).matrix(g, name, 2 * shape.mlp_width, d_model, Role::Projection)
        })?;
        Ok(Block { shared, places, shape, rank, in_attention })
    };
    (0..count.min(users.len())).map(block).collect()
}

impl<'a> Block<'a> {
    /// The adapters of use `j`, counted over the uses of all blocks.
    fn adapters(&self, g: &mut Graph<'a>, j: usize) -> Result<Adapters, Error> {
        let Shape { d_model, heads, kv_heads, head_dim, mlp_width, .. } = self.shape;
        let mut adapter =
            |name: &str, rows, cols| Adapter::new(g, &self.places, &format!("{name}_adapter_list.{j}"), rows, self.rank, cols).map(Some);
        Ok(Adapters {
            qkv: match self.in_attention {
                true => [
                    adapter("self_attn.linear_q", heads * head_dim, 2 * d_model)?,
                    adapter("self_attn.linear_k", kv_heads * head_dim, 2 * d_model)?,
                    adapter("self_attn.linear_v", kv_heads * head_dim, 2 * d_model)?,
                ],
                false => [None; 3],
            },
            gate_up: adapter("feed_forward.gate_up_proj", 2 * mlp_width, d_model)?,
        })
    }
}

fn mamba(config: &Config, d_model: usize) -> Result<Mamba2, Error> {
    let heads = config.maybe_size("n_mamba_heads")?.unwrap_or(8);
    let d_inner = d_model * config.maybe_size("mamba_expand")?.unwrap_or(2);
    if !d_inner.is_multiple_of(heads) {
        return Err(config.error("n_mamba_heads", format!("is {heads}, which does not divide mamba_expand * hidden_size = {d_inner}")));
    }
    let bias = config.flag_or("add_bias_linear", false)?;
    Mamba2 {
        heads,
        head_dim: d_inner / heads,
        d_state: config.maybe_size("mamba_d_state")?.unwrap_or(64),
        groups: config.maybe_size("mamba_ngroups")?.unwrap_or(1),
        d_conv: config.maybe_size("mamba_d_conv")?.unwrap_or(4),
        bias,
        out_bias: bias,
        gating: Gating::GateThenNorm,
        conv_bias: true,
        eps: GATED_NORM_EPS,
        // transformers' prefill never takes steps below `time_step_min`, its single steps do: training is not known to have had a bound.
        dt_limit: dt_limit(config, "time_step_limit")?,
    }
    .checked(config, "mamba_ngroups")
}
