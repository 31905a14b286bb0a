//! Plain recurrent nets over sensor frames (`model_type` "brooklet_rnn"): an optional encoder, layers of LSTM or GRU, a head that
//! gives classes or values. `docs/sensor-checkpoint.md` describes config and tensors; the layers' names are those of PyTorch.

use super::Names;
use super::frames::{frame_graph, names, pool};
use super::recurrent::Cell;
use crate::checkpoint::{Checkpoint, Config};
use crate::error::Error;
use crate::graph::{Graph, Output, Role};
use brooklet::ops::{Activation, NormKind};
use serde_json::json;

/// Most values of a vector of length 1: it passes a square matrix.
const MAX_UNIT_VALUES: usize = 4096;

pub(super) fn build(checkpoint: &Checkpoint) -> Result<Graph<'_>, Error> {
    let config = &checkpoint.config;
    let cell = match config.text("rnn")? {
        "LSTM" => Cell::Lstm,
        "GRU" => Cell::Gru,
        other => return Err(config.error("rnn", format!("is \"{other}\"; supported are LSTM and GRU"))),
    };
    // A stream cannot be read backwards.
    config.refuse_unless("bidirectional", &json!(false))?;
    config.refuse_unless("proj_size", &json!(0))?;
    let hidden = config.size("hidden_size")?;
    let layers = config.maybe_size("num_layers")?.unwrap_or(1);
    let bias = config.flag_or("bias", true)?;
    let output = config.object("output")?;
    let (kind, count) = outputs(&output)?;
    // Values are measurements, and so are samples; classes only need to be told apart.
    let head_role = if matches!(kind, Output::Values { .. }) { Role::Fine } else { Role::Embedding };
    let (mut g, mut x) = frame_graph(config, kind)?;
    let mut role = head_role;
    let top = Names::new(checkpoint, "");
    if let Some(encoder) = config.maybe_object("encoder")? {
        let size = encoder.size("size")?;
        let w = top.matrix(&mut g, "encoder.weight", size, x.len as usize, role)?;
        let b = top.bias(&mut g, "encoder.bias", size, true)?;
        let f = activation(&encoder)?;
        x = g.linear(w, b, x);
        if let Some(f) = f {
            g.activate(f, x);
        }
        role = Role::Projection;
    }
    for layer in 0..layers {
        x = cell.build(&mut g, &top.under("rnn"), &format!("_l{layer}"), (role, x), hidden, bias)?;
        role = Role::Projection;
    }
    pool(&mut g, &output, x)?;
    let head = top.matrix(&mut g, "head.weight", count, hidden, head_role)?;
    let head_bias = top.bias(&mut g, "head.bias", count, true)?;
    if !output.flag_or("unit_norm", false)? {
        g.head(head, head_bias, x, 1.0);
        return Ok(g);
    }
    if count > MAX_UNIT_VALUES {
        return Err(output.error("unit_norm", format!("is true for {count} values, at most {MAX_UNIT_VALUES} are supported")));
    }
    // A unit vector is one of root mean square 1, divided by the root of its length.
    let y = g.linear(head, head_bias, x);
    g.norm_in_place(NormKind::Rms, y, None, None, 1, 1e-12);
    let identity = move || Ok((0..count * count).map(|i| f32::from(u8::from(i % (count + 1) == 0))).collect());
    // In float: rounding the outputs themselves would cost more than all weights together.
    let identity = g.matrix("head.identity", count, count, Role::Router, identity);
    g.head(identity, None, y, 1.0 / (count as f32).sqrt());
    Ok(g)
}

/// Classes or values, and how many.
fn outputs(config: &Config) -> Result<(Output, usize), Error> {
    match (config.value("classes").is_some(), config.value("values").is_some()) {
        (true, false) => {
            if config.flag_or("unit_norm", false)? {
                return Err(config.error("unit_norm", "is for values; logits of classes have no unit length"));
            }
            let names = names(config, "classes")?;
            let count = names.len();
            Ok((Output::Classes(names), count))
        }
        (false, true) => {
            let (names, units) = (names(config, "values")?, names(config, "units")?);
            if names.len() != units.len() {
                return Err(config.error("units", format!("has {} entries for {} values", units.len(), names.len())));
            }
            let count = names.len();
            Ok((Output::Values { names, units }, count))
        }
        _ => Err(config.error("classes", "or `values` must be there, and only one of them")),
    }
}

fn activation(config: &Config) -> Result<Option<Activation>, Error> {
    match config.maybe_text("activation")?.unwrap_or("none") {
        "none" => Ok(None),
        "relu" => Ok(Some(Activation::Relu)),
        "tanh" => Ok(Some(Activation::Tanh)),
        "sigmoid" => Ok(Some(Activation::Sigmoid)),
        "silu" => Ok(Some(Activation::Silu)),
        "gelu" => Ok(Some(Activation::Gelu)),
        other => Err(config.error("activation", format!("is \"{other}\"; supported are none, relu, tanh, sigmoid, silu and gelu"))),
    }
}
