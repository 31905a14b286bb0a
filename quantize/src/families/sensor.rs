//! Brooklet's own sensor classifiers (`model_type` "brooklet_sensor"): an encoder, Mamba, Mamba-2, S4D or S5 layers, pooling, a
//! head.
//! `docs/sensor-checkpoint.md` describes config and tensors; the mixers' names are those of their first implementations.

use super::diagonal::Diagonal;
use super::frames::{frame_graph, names, pool};
use super::mixer::{Gating, Mamba1, Mamba2, StepNorms};
use super::{Names, NormStyle, layers};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::Error;
use crate::graph::{Graph, Operand, Output, Role};
use brooklet::ops::NormKind;

enum Mixer {
    Mamba1(Mamba1),
    Mamba2(Mamba2),
    Diagonal(Diagonal),
}

impl Mixer {
    fn build<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, x: Operand) -> Result<Operand, Error> {
        match self {
            Mixer::Mamba1(mixer) => mixer.build(g, names, x),
            Mixer::Mamba2(mixer) => mixer.build(g, names, x),
            Mixer::Diagonal(mixer) => mixer.build(g, names, x),
        }
    }
}

pub(super) fn build(checkpoint: &Checkpoint) -> Result<Graph<'_>, Error> {
    let config = &checkpoint.config;
    let d_model = config.size("d_model")?;
    let eps = config.number_or("norm_epsilon", 1e-5)? as f32;
    let norm = match config.flag_or("rms_norm", true)? {
        true => NormStyle { kind: NormKind::Rms, eps, bias: false },
        false => NormStyle { kind: NormKind::Layer, eps, bias: true },
    };
    let mixer = mixer(&config.object("ssm_cfg")?, d_model, eps)?;
    let output = config.object("output")?;
    let classes = names(&output, "classes")?;
    let class_count = classes.len();
    let (mut g, frame) = frame_graph(config, Output::Classes(classes))?;
    let backbone = Names::new(checkpoint, "backbone.");
    let encoder = backbone.matrix(&mut g, "encoder.weight", d_model, frame.len as usize, Role::Embedding)?;
    let encoder_bias = backbone.bias(&mut g, "encoder.bias", d_model, true)?;
    let x = g.linear(encoder, encoder_bias, frame);
    for i in 0..layers(checkpoint)? {
        let layer = backbone.under(&format!("layers.{i}"));
        let normed = layer.norm(&mut g, "norm", x, norm)?;
        let y = mixer.build(&mut g, &layer.under("mixer"), normed)?;
        g.add(x, y, 1.0);
    }
    let features = backbone.norm(&mut g, "norm_f", x, norm)?;
    pool(&mut g, &output, features)?;
    let top = Names::new(checkpoint, "");
    let head = top.matrix(&mut g, "head.weight", class_count, d_model, Role::Embedding)?;
    let bias = top.bias(&mut g, "head.bias", class_count, true)?;
    g.head(head, bias, features, 1.0);
    Ok(g)
}

fn mixer(config: &Config, d_model: usize, eps: f32) -> Result<Mixer, Error> {
    let d_inner = d_model * config.maybe_size("expand")?.unwrap_or(2);
    let d_conv = config.maybe_size("d_conv")?.unwrap_or(4);
    match config.maybe_text("layer")?.unwrap_or("Mamba1") {
        "Mamba1" => Ok(Mixer::Mamba1(Mamba1 {
            d_inner,
            d_state: config.maybe_size("d_state")?.unwrap_or(16),
            d_conv,
            dt_rank: config.maybe_size("dt_rank")?.unwrap_or(d_model.div_ceil(16)),
            bias: false,
            conv_bias: true,
            norms: StepNorms::None,
        })),
        "Mamba2" => {
            let head_dim = config.maybe_size("headdim")?.unwrap_or(64);
            if !d_inner.is_multiple_of(head_dim) {
                return Err(config.error("headdim", format!("is {head_dim}, which does not divide expand * d_model = {d_inner}")));
            }
            let mixer = Mamba2 {
                heads: d_inner / head_dim,
                head_dim,
                d_state: config.maybe_size("d_state")?.unwrap_or(128),
                groups: config.maybe_size("ngroups")?.unwrap_or(1),
                d_conv,
                bias: false,
                out_bias: false,
                conv_bias: true,
                gating: Gating::GateThenNorm,
                eps,
                dt_limit: (0.0, f32::INFINITY),
            };
            Ok(Mixer::Mamba2(mixer.checked(config, "ngroups")?))
        }
        "S4D" => Ok(Mixer::Diagonal(Diagonal::s4d(config)?)),
        "S5" => Ok(Mixer::Diagonal(Diagonal::s5(config)?)),
        other => Err(config.error("layer", format!("is \"{other}\"; supported are Mamba1, Mamba2, S4D and S5"))),
    }
}
