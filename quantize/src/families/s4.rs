//! The classifier of the S4 repository's example (`model_type` "s4"): an encoder, S4 or S4D layers with layer norms before or
//! behind them, pooling, a decoder.
//!
//! Tensor names are the repository's (state-spaces/s4: example.py, models/s4/s4.py, models/s4/s4d.py). It writes no config;
//! `docs/sensor-checkpoint.md` describes ours, with its arguments' names.

use super::diagonal::Diagonal;
use super::frames::{frame_graph, names, pool};
use super::s4_kernel::Kernel;
use super::{Names, NormStyle};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::Error;
use crate::graph::{Graph, Operand, Output, Role};
use brooklet::ops::{Activation, NormKind};
use serde_json::json;

/// PyTorch's layer norm, as the example has it.
const NORM: NormStyle = NormStyle { kind: NormKind::Layer, eps: 1e-5, bias: true };

enum Layer {
    /// `S4Block` of s4.py.
    Block(Block),
    /// `S4D` of s4d.py.
    Plain(Diagonal),
}

pub(super) fn build(checkpoint: &Checkpoint) -> Result<Graph<'_>, Error> {
    let config = &checkpoint.config;
    let d_model = config.size("d_model")?;
    let prenorm = config.flag_or("prenorm", false)?;
    let args = config.object("layer_args")?;
    let layer = match config.maybe_text("layer")?.unwrap_or("S4Block") {
        "S4Block" => Layer::Block(Block::read(&args)?),
        "S4D" => Layer::Plain(Diagonal::s4d(&args)?),
        other => return Err(config.error("layer", format!("is \"{other}\"; supported are S4Block and S4D"))),
    };
    let output = config.object("output")?;
    let classes = names(&output, "classes")?;
    let class_count = classes.len();
    let (mut g, frame) = frame_graph(config, Output::Classes(classes))?;
    let top = Names::new(checkpoint, "");
    let encoder = top.matrix(&mut g, "encoder.weight", d_model, frame.len as usize, Role::Embedding)?;
    let encoder_bias = top.bias(&mut g, "encoder.bias", d_model, true)?;
    let x = g.linear(encoder, encoder_bias, frame);
    for i in 0..config.size("n_layers")? {
        let (block, norm) = (top.under(&format!("s4_layers.{i}")), format!("norms.{i}"));
        let input = if prenorm { top.norm(&mut g, &norm, x, NORM)? } else { x };
        let y = match &layer {
            Layer::Block(layer) => layer.build(&mut g, &block, input)?,
            Layer::Plain(layer) => layer.build(&mut g, &block, input)?,
        };
        g.add(x, y, 1.0);
        if !prenorm {
            let weight = top.array(&mut g, &format!("{norm}.weight"), &[d_model])?;
            let bias = top.array(&mut g, &format!("{norm}.bias"), &[d_model])?;
            g.norm_in_place(NORM.kind, x, Some(weight), Some(bias), 1, NORM.eps);
        }
    }
    // The example's mean is over the whole recording; which one a stream should have is for its owner to say.
    output.text("pooling")?;
    pool(&mut g, &output, x)?;
    let decoder = top.matrix(&mut g, "decoder.weight", class_count, d_model, Role::Embedding)?;
    let bias = top.bias(&mut g, "decoder.bias", class_count, true)?;
    g.head(decoder, bias, x, 1.0);
    Ok(g)
}

/// `S4Block` around `FFTConv`.
struct Block {
    kernel: Kernel,
    /// Behind the convolution.
    activation: Option<Activation>,
    mix: Mix,
}

/// What mixes the channels.
enum Mix {
    None,
    /// `output_linear`, then a function.
    Linear(Option<Activation>),
    /// `output_linear` to twice the width, half of it a gate.
    Glu,
}

impl Block {
    fn read(config: &Config) -> Result<Self, Error> {
        // A stream cannot be read backwards.
        for (key, supported) in [
            ("bidirectional", json!(false)),
            ("is_real", json!(false)),
            ("dt_fast", json!(false)),
            ("swap_channels", json!(false)),
            ("weight_norm", json!(false)),
            ("bandlimit", json!(null)),
            ("gate", json!(null)),
            ("bottleneck", json!(null)),
            ("mult_act", json!(null)),
            ("postact", json!(null)),
        ] {
            config.refuse_unless(key, &supported)?;
        }
        let mix = match config.maybe_text("final_act")? {
            _ if config.is_null("final_act") => Mix::None,
            None | Some("glu") => Mix::Glu,
            Some(_) => Mix::Linear(activation(config, "final_act")?),
        };
        let kernel = Kernel::read(config)?;
        if matches!(mix, Mix::None) && kernel.outputs != 1 {
            return Err(config.error("final_act", "is null, but with more than one of `channels` the block needs its output_linear"));
        }
        let activation = match config.maybe_text("activation")? {
            None if !config.is_null("activation") => Some(Activation::Gelu),
            _ => activation(config, "activation")?,
        };
        Ok(Block { kernel, activation, mix })
    }

    fn build<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, x: Operand) -> Result<Operand, Error> {
        let width = x.len as usize;
        let y = self.kernel.build(g, &names.under("layer"), x)?;
        if let Some(f) = self.activation {
            g.activate(f, y);
        }
        match self.mix {
            Mix::None => Ok(y),
            Mix::Linear(f) => {
                let y = names.linear(g, "output_linear.0", width, y, true)?;
                if let Some(f) = f {
                    g.activate(f, y);
                }
                Ok(y)
            }
            Mix::Glu => {
                let [y, gate] = names.linear(g, "output_linear.0", 2 * width, y, true)?.split([width, width]);
                g.activate(Activation::Sigmoid, gate);
                g.multiply(y, gate);
                Ok(y)
            }
        }
    }
}

/// The function `key`; null stands for none.
fn activation(config: &Config, key: &str) -> Result<Option<Activation>, Error> {
    match config.maybe_text(key)? {
        None | Some("id" | "identity" | "linear") => Ok(None),
        Some("tanh") => Ok(Some(Activation::Tanh)),
        Some("relu") => Ok(Some(Activation::Relu)),
        Some("gelu") => Ok(Some(Activation::Gelu)),
        Some("silu" | "swish") => Ok(Some(Activation::Silu)),
        Some("sigmoid") => Ok(Some(Activation::Sigmoid)),
        Some(other) => Err(config.error(key, format!("is \"{other}\"; supported are id, tanh, relu, gelu, silu, swish and sigmoid"))),
    }
}
