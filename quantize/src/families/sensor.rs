//! Brooklet's own sensor classifiers (`model_type` "brooklet_sensor"): an encoder, Mamba, Mamba-2, S4D or S5 layers, pooling, a
//! head.
//! `docs/sensor-checkpoint.md` describes config and tensors; the mixers' names are those of their first implementations.

use super::diagonal::Diagonal;
use super::mixer::{Mamba1, Mamba2};
use super::{Names, NormStyle, layers};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::Error;
use crate::graph::{Card, Graph, Input, Operand, Output, Role};
use brooklet::artifact::MAX_CHANNELS;
use brooklet::ops::{NormKind, PoolKind};

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
    let input = input(&config.object("input")?)?;
    let output = config.object("output")?;
    let classes: Vec<String> = output.texts("classes")?.into_iter().map(str::to_owned).collect();
    if classes.is_empty() || classes.iter().any(|c| is_unprintable(c)) {
        return Err(output.error("classes", "needs at least one name, each without line breaks"));
    }
    let Input::Frames { mean, std, .. } = &input else { return Err(config.error("input", "is not made of frames")) };
    let (mean, inv_std) = (mean.clone(), std.iter().map(|s| 1.0 / s).collect());
    let class_count = classes.len();
    let mut g = Graph::new(card(config)?, input, Output::Classes(classes));
    let backbone = Names::new(checkpoint, "backbone.");
    let frame = g.frame(mean, inv_std);
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
    match output.maybe_text("pooling")?.unwrap_or("last") {
        "last" => {}
        "mean" => g.pool(PoolKind::Mean, features),
        "ema" => {
            let alpha = output.number_or("ema_alpha", 0.0)? as f32;
            if !(alpha > 0.0 && alpha <= 1.0) {
                return Err(output.error("ema_alpha", "must be above 0 and at most 1 for pooling \"ema\""));
            }
            g.pool(PoolKind::Ema { alpha }, features);
        }
        other => return Err(output.error("pooling", format!("is \"{other}\"; supported are last, mean and ema"))),
    }
    let top = Names::new(checkpoint, "");
    let head = top.matrix(&mut g, "head.weight", class_count, d_model, Role::Embedding)?;
    let bias = top.bias(&mut g, "head.bias", class_count, true)?;
    g.head(head, bias, features, 1.0);
    Ok(g)
}

fn card(config: &Config) -> Result<Card, Error> {
    let Some(card) = config.maybe_object("card")? else { return Ok(Card { family: "brooklet_sensor".to_owned(), ..Card::default() }) };
    let text = |key| Ok::<_, Error>(card.maybe_text(key)?.unwrap_or_default().to_owned());
    Ok(Card { name: text("name")?, family: "brooklet_sensor".to_owned(), source: text("source")?, license: text("license")? })
}

fn input(config: &Config) -> Result<Input, Error> {
    let channels: Vec<String> = config.texts("channels")?.into_iter().map(str::to_owned).collect();
    if channels.is_empty() || channels.iter().any(|c| is_unprintable(c)) {
        return Err(config.error("channels", "needs at least one name, each without line breaks"));
    }
    if channels.len() > MAX_CHANNELS {
        return Err(config.error("channels", format!("lists {}, at most {MAX_CHANNELS} are supported", channels.len())));
    }
    let units: Vec<String> = config.texts("units")?.into_iter().map(str::to_owned).collect();
    let (mean, std) = (config.numbers("mean")?, config.numbers("std")?);
    for (key, len) in [("units", units.len()), ("mean", mean.len()), ("std", std.len())] {
        if len != channels.len() {
            return Err(config.error(key, format!("has {len} entries for {} channels", channels.len())));
        }
    }
    if let Some(bad) = std.iter().find(|s| **s <= 0.0) {
        return Err(config.error("std", format!("holds {bad}; standard deviations must be above 0 (leave a constant channel out)")));
    }
    let rate_hz = config.number_or("rate_hz", 0.0)? as f32;
    if rate_hz <= 0.0 {
        return Err(config.error("rate_hz", "must be above 0"));
    }
    Ok(Input::Frames { channels, units, rate_hz, mean, std })
}

/// The file keeps lists of names as lines.
fn is_unprintable(name: &str) -> bool {
    name.is_empty() || name.contains(char::is_control)
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
                conv_bias: true,
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
