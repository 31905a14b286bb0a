//! Zamba's shared transformer block: its weights are in the file once, every layer that uses it has a cache of its own.

use super::Names;
use super::attention::check_head_dim;
use super::mlp::{activation, gate_multiply};
use crate::checkpoint::Config;
use crate::error::Error;
use crate::graph::{Graph, Operand, Role};
use brooklet::ops::{Activation, Rotary, TensorId};
use serde_json::json;

/// Shape of the block. Its input is the residual next to the token's embedding, (2 * d_model).
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) d_model: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    /// Hidden numbers of the MLP.
    pub(super) mlp_width: usize,
    pub(super) f: Activation,
    /// Whether the MLP has biases.
    pub(super) bias: bool,
    pub(super) eps: f32,
    pub(super) rotary: Option<Rotary>,
    /// Factor of the scores.
    pub(super) scale: f32,
}

impl Shape {
    /// The shape from the keys that Zamba and Zamba2 share.
    pub(super) fn new(config: &Config, d_model: usize, mlp_width: usize, eps: f32) -> Result<Self, Error> {
        let heads = config.size("num_attention_heads")?;
        let kv_heads = config.maybe_size("num_key_value_heads")?.unwrap_or(heads);
        let head_dim = config.maybe_size("attention_head_dim")?.unwrap_or(2 * d_model / heads);
        if !heads.is_multiple_of(kv_heads) || head_dim == 0 {
            return Err(config.error("num_key_value_heads", format!("{heads} heads of {head_dim} cannot share {kv_heads} key-value heads")));
        }
        check_head_dim(config, "attention_head_dim", head_dim)?;
        config.refuse_unless("attention_hidden_size", &json!(2 * d_model))?;
        let f = activation(config, "hidden_act", Activation::Gelu)?;
        // The input is twice as wide as the model, and the scores are scaled as if it were not.
        let scale = (head_dim as f64 / 2.0).powf(-0.5) as f32;
        Ok(Shape { d_model, heads, kv_heads, head_dim, mlp_width, f, bias: false, eps, rotary: None, scale })
    }
}

/// Which layers use the shared block, if the config lists it: "hybrid" does, "mamba" does not.
pub(super) fn hybrid_layers(config: &Config, layers: usize) -> Result<Option<Vec<bool>>, Error> {
    let Some(key) = ["layers_block_type", "layer_types"].into_iter().find(|key| config.value(key).is_some()) else { return Ok(None) };
    let kinds = config.texts(key)?;
    if kinds.len() != layers {
        return Err(config.error(key, format!("lists {} layers, num_hidden_layers says {layers}", kinds.len())));
    }
    let is_hybrid = |(i, kind)| match kind {
        "hybrid" => Ok(true),
        "mamba" | "linear_attention" => Ok(false),
        other => Err(config.error(key, format!("entry {i} is \"{other}\"; supported are mamba and hybrid"))),
    };
    kinds.into_iter().enumerate().map(is_hybrid).collect::<Result<_, _>>().map(Some)
}

/// Where the block's tensors may be: checkpoints hold them under one or under all of the layers that use it.
pub(super) struct Places<'a>(pub(super) Vec<Names<'a>>);

impl<'a> Places<'a> {
    /// The place that holds the tensor `name`; if none does, the first, for the error to name.
    pub(super) fn of(&self, name: &str) -> &Names<'a> {
        self.0.iter().find(|names| names.checkpoint.has(&names.full(name))).unwrap_or(&self.0[0])
    }

    /// Refuses places that hold blocks of their own instead of copies of one; the norm at the entrance tells.
    fn check_shared(&self, name: &str, len: usize) -> Result<(), Error> {
        let first = self.of(name);
        let weight = first.read(name, &[len])?;
        for names in self.0.iter().filter(|names| names.checkpoint.has(&names.full(name))) {
            if names.read(name, &[len])? != weight {
                let problem = format!("differs from `{}`; only blocks that the layers share are supported", first.full(name));
                return Err(Error::invalid(names.checkpoint.dir(), format!("tensor `{}`", names.full(name)), problem));
            }
        }
        Ok(())
    }

    fn matrix(&self, g: &mut Graph<'a>, name: &str, rows: usize, cols: usize) -> Result<TensorId, Error> {
        self.of(name).matrix(g, name, rows, cols, Role::Projection)
    }

    fn array(&self, g: &mut Graph<'a>, name: &str, len: usize) -> Result<TensorId, Error> {
        self.of(name).array(g, name, &[len])
    }

    fn bias(&self, g: &mut Graph<'a>, name: &str, len: usize, present: bool) -> Result<Option<TensorId>, Error> {
        if present { self.array(g, name, len).map(Some) } else { Ok(None) }
    }
}

/// The block's tensors.
pub(super) struct SharedBlock {
    shape: Shape,
    input_norm: TensorId,
    /// Projections of queries, keys and values.
    qkv: [TensorId; 3],
    out: TensorId,
    mlp_norm: TensorId,
    /// (2 * mlp_width, d_model), the gate's rows first.
    gate_up: TensorId,
    gate_up_bias: Option<TensorId>,
    down: TensorId,
    down_bias: Option<TensorId>,
}

/// A use's own low-rank additions to the shared projections.
#[derive(Clone, Copy, Default)]
pub(super) struct Adapters {
    /// Of queries, keys and values.
    pub(super) qkv: [Option<Adapter>; 3],
    /// Of gate and up.
    pub(super) gate_up: Option<Adapter>,
}

/// `y + up * (down * x)`
#[derive(Clone, Copy)]
pub(super) struct Adapter {
    down: TensorId,
    up: TensorId,
}

impl Adapter {
    /// The adapter whose matrices are `name.0`, (rank, cols), and `name.1`, (rows, rank).
    pub(super) fn new<'a>(
        g: &mut Graph<'a>,
        places: &Places<'a>,
        name: &str,
        rows: usize,
        rank: usize,
        cols: usize,
    ) -> Result<Self, Error> {
        let down = places.matrix(g, &format!("{name}.0.weight"), rank, cols)?;
        let up = places.matrix(g, &format!("{name}.1.weight"), rows, rank)?;
        Ok(Adapter { down, up })
    }
}

/// `w * x + bias`, with the use's addition.
fn adapted(g: &mut Graph<'_>, w: TensorId, bias: Option<TensorId>, adapter: Option<Adapter>, x: Operand) -> Operand {
    let y = g.linear(w, bias, x);
    if let Some(Adapter { down, up }) = adapter {
        let low = g.linear(down, None, x);
        let addition = g.linear(up, None, low);
        g.add(y, addition, 1.0);
    }
    y
}

impl SharedBlock {
    /// Declares the block's tensors; `gate_up` declares the MLP's first matrix.
    pub(super) fn new<'a>(
        g: &mut Graph<'a>,
        places: &Places<'a>,
        shape: Shape,
        gate_up: impl Fn(&mut Graph<'a>) -> Result<TensorId, Error>,
    ) -> Result<Self, Error> {
        let (d_model, width) = (shape.d_model, shape.mlp_width);
        places.check_shared("input_layernorm.weight", 2 * d_model)?;
        let (q_len, kv_len) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        Ok(SharedBlock {
            shape,
            input_norm: places.array(g, "input_layernorm.weight", 2 * d_model)?,
            qkv: [
                places.matrix(g, "self_attn.q_proj.weight", q_len, 2 * d_model)?,
                places.matrix(g, "self_attn.k_proj.weight", kv_len, 2 * d_model)?,
                places.matrix(g, "self_attn.v_proj.weight", kv_len, 2 * d_model)?,
            ],
            out: places.matrix(g, "self_attn.o_proj.weight", d_model, q_len)?,
            mlp_norm: places.array(g, "pre_ff_layernorm.weight", d_model)?,
            gate_up: gate_up(g)?,
            gate_up_bias: places.bias(g, "feed_forward.gate_up_proj.bias", 2 * width, shape.bias)?,
            down: places.matrix(g, "feed_forward.down_proj.weight", d_model, width)?,
            down_bias: places.bias(g, "feed_forward.down_proj.bias", d_model, shape.bias)?,
        })
    }

    /// `mlp(norm(attention(norm(input))))`, (2 * d_model) to (d_model): nothing is added back inside the block.
    pub(super) fn build(&self, g: &mut Graph<'_>, adapters: &Adapters, input: Operand) -> Operand {
        let shape = &self.shape;
        let normed = g.rms_norm(input, self.input_norm, shape.eps);
        let [q, k, v] = [0, 1, 2].map(|i| adapted(g, self.qkv[i], None, adapters.qkv[i], normed));
        let heads = g.attention([q, k, v], shape.heads, shape.scale, shape.rotary);
        let attended = g.linear(self.out, None, heads);
        let normed = g.rms_norm(attended, self.mlp_norm, shape.eps);
        let gate_up = adapted(g, self.gate_up, self.gate_up_bias, adapters.gate_up, normed);
        let [gate, up] = gate_up.split([shape.mlp_width; 2]);
        gate_multiply(g, shape.f, gate, up);
        g.linear(self.down, self.down_bias, gate)
    }
}
