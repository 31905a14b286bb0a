//! One file per model family: from config and tensor names to a graph. The only place that knows families by name.

mod attention;
mod diagonal;
mod granite_hybrid;
mod hybrid;
mod mamba;
mod mamba2;
mod mixer;
mod mlp;
mod sensor;
mod stripedhyena;

use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::graph::{Card, Graph, Input, Operand, Output, Role};
use brooklet::ops::{NormKind, TensorId};

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
    ("stripedhyena", stripedhyena::build),
];

/// Builds the graph of a checkpoint of any family.
pub fn build(checkpoint: &Checkpoint) -> Result<Graph<'_>, Error> {
    let config = &checkpoint.config;
    let model_type = config.text("model_type")?;
    let family = FAMILIES.iter().find(|(name, _)| *name == model_type);
    let Some((_, build)) = family else {
        let known: Vec<&str> = FAMILIES.iter().map(|(name, _)| *name).collect();
        return Err(config.error("model_type", format!("is \"{model_type}\"; supported are {}", known.join(", "))));
    };
    build(checkpoint)
}

/// The tensors of one layer or block, by the names under a prefix.
struct Names<'a> {
    checkpoint: &'a Checkpoint,
    prefix: String,
}

impl<'a> Names<'a> {
    fn new(checkpoint: &'a Checkpoint, prefix: impl Into<String>) -> Self {
        Names { checkpoint, prefix: prefix.into() }
    }

    /// The names one level down.
    fn under(&self, name: &str) -> Names<'a> {
        Names::new(self.checkpoint, format!("{}{name}.", self.prefix))
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
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
        let name = self.full(name);
        let checkpoint = self.checkpoint;
        check_shape(checkpoint, &name, rows, cols)?;
        let of = name.clone();
        Ok(g.matrix(name, rows, cols, role, move || Ok(checkpoint.tensor(&of, &[rows, cols])?.data)))
    }

    /// A projection with its weight and optional bias: `name.weight`, `name.bias`.
    fn linear(&self, g: &mut Graph<'a>, name: &str, rows: usize, x: Operand, bias: bool) -> Result<Operand, Error> {
        let w = self.matrix(g, &format!("{name}.weight"), rows, x.len as usize, Role::Projection)?;
        let bias = self.bias(g, &format!("{name}.bias"), rows, bias)?;
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

fn check_shape(checkpoint: &Checkpoint, name: &str, rows: usize, cols: usize) -> Result<(), Error> {
    let found = checkpoint.shape(name)?;
    let squeezed: Vec<usize> = found.iter().copied().filter(|&n| n != 1).collect();
    let wanted: Vec<usize> = [rows, cols].into_iter().filter(|&n| n != 1).collect();
    if squeezed == wanted {
        return Ok(());
    }
    let problem = format!("has shape {found:?} where the config asks for [{rows}, {cols}]; config.json and weights do not belong together");
    Err(Error::invalid(checkpoint.dir(), format!("tensor `{name}`"), problem))
}

/// A text model's graph with its tokens and tokenizer, ready for its embedding.
fn text_graph<'a>(checkpoint: &'a Checkpoint, vocab: usize) -> Result<Graph<'a>, Error> {
    let config = &checkpoint.config;
    let name = checkpoint.dir().canonicalize().ok().and_then(|d| Some(d.file_name()?.to_string_lossy().into_owned()));
    let card = Card {
        name: name.unwrap_or_default(),
        family: config.text("model_type")?.to_owned(),
        source: config.maybe_text("_name_or_path")?.unwrap_or_default().to_owned(),
        license: config.maybe_text("license")?.unwrap_or_default().to_owned(),
    };
    let input = Input::Tokens { vocab: vocab as u32, bos: config.maybe_token("bos_token_id")?, eos: config.maybe_token("eos_token_id")? };
    let mut graph = Graph::new(card, input, Output::Logits(vocab as u32));
    graph.tokenizer = checkpoint.tokenizer()?;
    Ok(graph)
}

/// The head's matrix: the embedding again if tied, else `lm_head.weight`.
fn head_matrix<'a>(g: &mut Graph<'a>, checkpoint: &'a Checkpoint, table: TensorId, tied: bool) -> Result<TensorId, Error> {
    if tied {
        return Ok(table);
    }
    let (vocab, d_model) = (g.tensors[table as usize].rows, g.tensors[table as usize].cols);
    Names::new(checkpoint, "").matrix(g, "lm_head.weight", vocab, d_model, Role::Embedding)
}

/// Sizes from config keys that the families spell alike.
fn layers(checkpoint: &Checkpoint) -> Result<usize, Error> {
    let config = &checkpoint.config;
    match config.maybe_size("num_hidden_layers")? {
        Some(n) => Ok(n),
        None => config.size("n_layer"),
    }
}
