//! One file per model family: from config and tensor names to a graph. The only place that knows families by name.

mod attention;
mod attenuate;
mod bamba;
mod diagonal;
mod diagonalise;
mod discretise;
mod experts;
mod falcon_h1;
mod falcon_mamba;
mod frames;
mod gated_delta_net;
mod granite_hybrid;
mod hybrid;
mod jamba;
mod lfm2;
mod lfm3;
mod llama;
mod mamba;
mod mamba2;
mod mixer;
mod mlp;
mod native_attention;
mod native_mamba;
mod nemotron_h;
mod qwen3_next;
mod recurrent;
mod recurrent_gemma;
mod rnn;
mod rotary;
mod s4;
mod s4_kernel;
mod sensor;
mod shared_block;
mod silero_vad;
mod stripedhyena;
mod zamba;
mod zamba2;

use crate::checkpoint::{Checkpoint, Config};
use crate::error::Error;
use crate::graph::{Card, Graph, Input, Operand, Output, Role};
use brooklet::ops::{NormKind, TensorId};
use std::ops::Range;

type Build = for<'a> fn(&'a Checkpoint) -> Result<Graph<'a>, Error>;

/// `model_type` in config.json, and what builds its graph.
// One entry a line, so that a new family is one line more.
#[rustfmt::skip]
const FAMILIES: &[(&str, Build)] = &[
    ("mamba", mamba::build),
    ("mamba2", mamba2::build),
    ("granitemoehybrid", granite_hybrid::build),
    ("brooklet_sensor", sensor::build),
    ("brooklet_hybrid", hybrid::build),
    ("llama", llama::build),
    ("lfm2", lfm2::build),
    ("lfm2_moe", lfm2::build_moe),
    ("lfm3", lfm3::build),
    ("recurrent_gemma", recurrent_gemma::build),
    ("falcon_mamba", falcon_mamba::build),
    ("jamba", jamba::build),
    ("bamba", bamba::build),
    ("falcon_h1", falcon_h1::build),
    ("nemotron_h", nemotron_h::build),
    ("zamba", zamba::build),
    ("zamba2", zamba2::build),
    ("qwen3_next", qwen3_next::build),
    ("qwen3_5", qwen3_next::build),
    ("qwen3_5_text", qwen3_next::build),
    ("qwen3_5_moe", qwen3_next::build),
    ("qwen3_5_moe_text", qwen3_next::build),
    ("brooklet_rnn", rnn::build),
    ("silero_vad", silero_vad::build),
    ("stripedhyena", stripedhyena::build),
    ("s4", s4::build),
    ("attenuate", attenuate::build),
];

/// Builds the graph of a checkpoint of any family.
pub fn build(checkpoint: &Checkpoint) -> Result<Graph<'_>, Error> {
    let config = &checkpoint.config;
    // state-spaces/mamba writes its own config, which names no family.
    if config.value("model_type").is_none() && config.value("ssm_cfg").is_some() {
        return native_mamba::build(checkpoint);
    }
    let model_type = config.text("model_type")?;
    let family = FAMILIES.iter().find(|(name, _)| *name == model_type);
    let Some((_, build)) = family else {
        let known: Vec<&str> = FAMILIES.iter().map(|(name, _)| *name).collect();
        return Err(config.error("model_type", format!("is \"{model_type}\"; supported are {}", known.join(", "))));
    };
    let graph = build(checkpoint)?;
    checkpoint.refuse_left_behind()?;
    Ok(graph)
}

/// The tensors of one layer or block, by the names under a prefix.
struct Names<'a> {
    checkpoint: &'a Checkpoint,
    prefix: String,
    /// Projections that have factors.
    factors: Vec<(&'static str, Factors)>,
}

/// Factors to fold into a projection, which becomes `rows * (weight * (input * x) + bias)`.
#[derive(Clone)]
struct Factors {
    /// Of the input.
    input: f32,
    /// Of the output's rows; a shorter list repeats.
    rows: Vec<f32>,
}

impl<'a> Names<'a> {
    fn new(checkpoint: &'a Checkpoint, prefix: impl Into<String>) -> Self {
        Names { checkpoint, prefix: prefix.into(), factors: Vec::new() }
    }

    /// The same names, with factors for some of the projections.
    fn with_factors(self, factors: Vec<(&'static str, Factors)>) -> Self {
        Names { factors, ..self }
    }

    /// The names one level down.
    fn under(&self, name: &str) -> Names<'a> {
        Names::new(self.checkpoint, format!("{}{name}.", self.prefix))
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn has(&self, name: &str) -> bool {
        self.checkpoint.has(&self.full(name))
    }

    /// A small tensor's numbers, `shape` without ones.
    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        Ok(self.checkpoint.tensor(&self.full(name), shape)?.data)
    }

    /// A small tensor, kept in `f32`.
    fn array(&self, g: &mut Graph<'a>, name: &str, shape: &[usize]) -> Result<TensorId, Error> {
        let data = self.read(name, shape)?;
        Ok(g.array(self.full(name), data))
    }

    /// A bias that is only there if `present`.
    fn bias(&self, g: &mut Graph<'a>, name: &str, len: usize, present: bool) -> Result<Option<TensorId>, Error> {
        if present { self.array(g, name, &[len]).map(Some) } else { Ok(None) }
    }

    /// A matrix (rows, cols); its shape is checked now, its numbers are read later.
    fn matrix(&self, g: &mut Graph<'a>, name: &str, rows: usize, cols: usize, role: Role) -> Result<TensorId, Error> {
        let load = self.loader(name, rows, cols)?;
        Ok(g.matrix(self.full(name), rows, cols, role, load))
    }

    /// Reads a matrix (rows, cols) when called; its shape is checked now.
    fn loader(&self, name: &str, rows: usize, cols: usize) -> Result<impl Fn() -> Result<Vec<f32>, Error> + use<'a>, Error> {
        let name = self.full(name);
        let checkpoint = self.checkpoint;
        checkpoint.expect(&name, &[rows, cols])?;
        Ok(move || Ok(checkpoint.tensor(&name, &[rows, cols])?.data))
    }

    /// Rows of a tensor of the sizes `shape` as a matrix of their own; all dimensions but the last count as rows.
    fn rows(&self, g: &mut Graph<'a>, name: &str, shape: &[usize], rows: Range<usize>, role: Role) -> Result<TensorId, Error> {
        let name = self.full(name);
        let checkpoint = self.checkpoint;
        checkpoint.expect(&name, shape)?;
        let (shape, cols) = (shape.to_vec(), shape.last().copied().unwrap_or(1));
        let label = format!("{name}[{}..{}]", rows.start, rows.end);
        Ok(g.matrix(label, rows.len(), cols, role, move || checkpoint.numbers(&name, &shape, rows.start * cols..rows.end * cols)))
    }

    /// A matrix (rows, cols) whose row `i` is row `order()[i]` on disk. The order is made when the file is known to have so many rows: what the
    /// config says alone may be more than memory holds.
    fn reordered(
        &self,
        g: &mut Graph<'a>,
        name: &str,
        [rows, cols]: [usize; 2],
        role: Role,
        order: impl FnOnce() -> Vec<usize>,
    ) -> Result<TensorId, Error> {
        let name = self.full(name);
        let checkpoint = self.checkpoint;
        checkpoint.expect(&name, &[rows, cols])?;
        let order = order();
        let of = name.clone();
        Ok(g.matrix(name, rows, cols, role, move || {
            let data = checkpoint.tensor(&of, &[rows, cols])?.data;
            Ok(order.iter().flat_map(|row| &data[row * cols..(row + 1) * cols]).copied().collect())
        }))
    }

    /// A projection with its weight and optional bias: `name.weight`, `name.bias`.
    fn linear(&self, g: &mut Graph<'a>, name: &str, rows: usize, x: Operand, bias: bool) -> Result<Operand, Error> {
        let [w_name, bias_name] = ["weight", "bias"].map(|part| format!("{name}.{part}"));
        let Some((_, factors)) = self.factors.iter().find(|(of, _)| *of == name) else {
            let w = self.matrix(g, &w_name, rows, x.len as usize, Role::Projection)?;
            let bias = self.bias(g, &bias_name, rows, bias)?;
            return Ok(g.linear(w, bias, x));
        };
        let bias = match bias {
            true => Some(factors.scale(self.read(&bias_name, &[rows])?, 1, 1.0)),
            false => None,
        };
        let (checkpoint, factors, cols, w_name) = (self.checkpoint, factors.clone(), x.len as usize, self.full(&w_name));
        checkpoint.expect(&w_name, &[rows, cols])?;
        let w = g.matrix(w_name.clone(), rows, cols, Role::Projection, move || {
            Ok(factors.scale(checkpoint.tensor(&w_name, &[rows, cols])?.data, cols, factors.input))
        });
        let bias = bias.map(|bias| g.array(self.full(&bias_name), bias));
        Ok(g.linear(w, bias, x))
    }

    /// Root-mean-square norm with the weight `name`.
    fn rms_norm(&self, g: &mut Graph<'a>, name: &str, x: Operand, eps: f32) -> Result<Operand, Error> {
        let weight = self.array(g, name, &[x.len as usize])?;
        Ok(g.rms_norm(x, weight, eps))
    }

    /// The norm `name` of any style.
    fn norm(&self, g: &mut Graph<'a>, name: &str, x: Operand, style: NormStyle) -> Result<Operand, Error> {
        let weight = self.array(g, &format!("{name}.weight"), &[x.len as usize])?;
        let bias = self.bias(g, &format!("{name}.bias"), x.len as usize, style.bias)?;
        Ok(g.norm(style.kind, x, Some(weight), bias, style.eps))
    }
}

/// Which norm a model has everywhere.
#[derive(Clone, Copy)]
struct NormStyle {
    kind: NormKind,
    eps: f32,
    /// Whether there is a bias beside the weight.
    bias: bool,
}

impl Factors {
    /// A matrix of rows of `cols` numbers, times `input` and each row's factor.
    fn scale(&self, mut data: Vec<f32>, cols: usize, input: f32) -> Vec<f32> {
        for (row, factor) in data.chunks_exact_mut(cols).zip(self.rows.iter().cycle()) {
            row.iter_mut().for_each(|w| *w *= factor * input);
        }
        data
    }
}

/// A text model's graph with its tokens and tokenizer, ready for its embedding.
fn text_graph<'a>(checkpoint: &'a Checkpoint, vocab: usize) -> Result<Graph<'a>, Error> {
    let config = &checkpoint.config;
    let card = Card {
        name: checkpoint.name().unwrap_or_default(),
        family: config.maybe_text("model_type")?.unwrap_or_default().to_owned(),
        source: config.maybe_text("_name_or_path")?.unwrap_or_default().to_owned(),
        license: config.maybe_text("license")?.unwrap_or_default().to_owned(),
    };
    let input =
        Input::Tokens { vocab: vocab as u32, bos: token(config, "bos_token_id", vocab)?, eos: token(config, "eos_token_id", vocab)? };
    let mut graph = Graph::new(card, input, Output::Logits(vocab as u32));
    graph.tokenizer = checkpoint.tokenizer()?;
    Ok(graph)
}

/// A token that the config may name. One beyond the vocabulary is none: configs of small models keep ids of large ones, no step can give
/// them, and a reader refuses a file that begins or ends texts with them.
fn token(config: &Config, key: &str, vocab: usize) -> Result<Option<u32>, Error> {
    Ok(config.maybe_token(key)?.filter(|&id| (id as usize) < vocab))
}

/// The head's matrix: the embedding again if tied, else `lm_head.weight`. Where the config says that they are tied and the file holds two that
/// differ, the file is right, as it is for transformers.
fn head_matrix<'a>(g: &mut Graph<'a>, checkpoint: &'a Checkpoint, table: TensorId, tied: bool) -> Result<TensorId, Error> {
    let name = "lm_head.weight";
    let table_tensor = &g.tensors[table as usize];
    let (vocab, d_model) = (table_tensor.rows, table_tensor.cols);
    if tied && !(checkpoint.has(name) && differ(checkpoint, &table_tensor.name, name, vocab, d_model)?) {
        return Ok(table);
    }
    Names::new(checkpoint, "").matrix(g, name, vocab, d_model, Role::Embedding)
}

/// Whether two matrices (rows, cols) hold different numbers; never in memory as a whole.
fn differ(checkpoint: &Checkpoint, a: &str, b: &str, rows: usize, cols: usize) -> Result<bool, Error> {
    const ROWS: usize = 1024;
    for first in (0..rows).step_by(ROWS) {
        let range = first * cols..rows.min(first + ROWS) * cols;
        if checkpoint.numbers(a, &[rows, cols], range.clone())? != checkpoint.numbers(b, &[rows, cols], range)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The first key, or the one that other versions write in its place.
fn either<'k>(config: &Config, key: &'k str, other: &'k str) -> &'k str {
    if config.value(key).is_none() && config.value(other).is_some() { other } else { key }
}

/// Sizes from config keys that the families spell alike.
fn layers(checkpoint: &Checkpoint) -> Result<usize, Error> {
    let config = &checkpoint.config;
    let key = if config.value("num_hidden_layers").is_some() { "num_hidden_layers" } else { "n_layer" };
    layers_under(checkpoint, config, key)
}

/// The number of layers that `key` says.
fn layers_under(checkpoint: &Checkpoint, config: &Config, key: &str) -> Result<usize, Error> {
    let layers = config.size(key)?;
    // Before anything is sized by it; weights that are drawn have no names.
    let tensors = checkpoint.names().count();
    if tensors > 0 && layers > tensors {
        return Err(config.error(key, format!("is {layers}, and there are only {tensors} tensors")));
    }
    Ok(layers)
}
