//! Brooklet's own text hybrids (`model_type` "brooklet_hybrid"): any mixers in any order, with conditional computation.
//!
//! A layer is one or several of `mamba`, `mamba2`, `attention` and `mlp`, each `x += mixer(norm(x))`. It may be *routed*
//! (Mixture-of-Depths, arXiv 2404.02258): a router's score decides, token by token, whether the layer runs, and weighs what it
//! adds. Or it *switches* between two mixers, token by token. `docs/hybrid-checkpoint.md` has config and tensors.

use super::attention::SelfAttention;
use super::mixer::{Gating, Mamba1, Mamba2, StepNorms};
use super::mlp::GatedMlp;
use super::{Names, head_matrix, text_graph};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::Error;
use crate::graph::{Graph, Operand, Role};
use brooklet::ops::Activation;

/// The shapes of the mixers that the config describes.
struct Mixers {
    mamba: Option<Mamba1>,
    mamba2: Option<Mamba2>,
    attention: Option<SelfAttention>,
    mlp: Option<GatedMlp>,
    eps: f32,
}

pub(super) fn build(checkpoint: &Checkpoint) -> Result<Graph<'_>, Error> {
    let config = &checkpoint.config;
    let d_model = config.size("d_model")?;
    let vocab = config.size("vocab_size")?;
    let mut g = text_graph(checkpoint, vocab)?;
    let mixers = Mixers::new(config, &mut g, d_model)?;
    let top = Names::new(checkpoint, "");
    let table = top.matrix(&mut g, "embed.weight", vocab, d_model, Role::Embedding)?;
    let x = g.embed(table, d_model, 1.0);
    let layers = config.value("layers").and_then(|l| l.as_array()).filter(|l| !l.is_empty());
    let layers = layers.ok_or_else(|| config.error("layers", "is missing or not a list of layers"))?;
    for (i, layer) in layers.iter().enumerate() {
        let names = top.under(&format!("layers.{i}"));
        let list = |key: &str| layer.get(key).and_then(|m| m.as_array()?.iter().map(|m| m.as_str()).collect::<Option<Vec<_>>>());
        let wrong = |what: &str| config.error("layers", format!("entry {i} is {layer}: {what}"));
        if let Some(mixer) = layer.as_str() {
            mixers.add(&mut g, &names.under("0"), mixer, x, config)?;
        } else if let Some(paths) = list("switch") {
            let [first, second] = paths.as_slice() else { return Err(wrong("a switch has two mixers")) };
            let score = score(&mut g, &names, "router.weight", x)?;
            g.routed(score, 0.0, false, |g| mixers.add(g, &names.under("0"), first, x, config))?;
            g.routed(score, 0.0, true, |g| mixers.add(g, &names.under("1"), second, x, config))?;
        } else if let Some(block) = list("mixers") {
            let weight = match layer.get("routed").and_then(|r| r.as_str()) {
                None if layer.get("routed").is_none_or(|r| r.is_null()) => None,
                Some("threshold") => Some(None),
                Some("predictor") => Some(Some(predictor(&mut g, &names, x)?)),
                _ => return Err(wrong("`routed` is threshold, predictor or null")),
            };
            let Some(predicted) = weight else {
                block.iter().enumerate().try_for_each(|(j, mixer)| mixers.add(&mut g, &names.under(&j.to_string()), mixer, x, config))?;
                continue;
            };
            let weight = score(&mut g, &names, "router.weight", x)?;
            g.routed(predicted.unwrap_or(weight), 0.0, false, |g| {
                // x + weight * (block(x) - x), the block with residuals of its own.
                let y = g.concat([x]);
                block.iter().enumerate().try_for_each(|(j, mixer)| mixers.add(g, &names.under(&j.to_string()), mixer, y, config))?;
                g.add(y, x, -1.0);
                g.scale_by(y, weight);
                g.add(x, y, 1.0);
                Ok(())
            })?;
        } else {
            return Err(wrong("expected a mixer's name, {\"mixers\": [..], \"routed\": ..} or {\"switch\": [.., ..]}"));
        }
    }
    let normed = top.rms_norm(&mut g, "norm.weight", x, mixers.eps)?;
    let head = head_matrix(&mut g, checkpoint, table, config.flag_or("tie_word_embeddings", false)?)?;
    g.head(head, None, normed, 1.0);
    Ok(g)
}

/// The product of `x` with one row, in float: it decides, so it must not be rounded.
fn score<'a>(g: &mut Graph<'a>, names: &Names<'a>, name: &str, x: Operand) -> Result<Operand, Error> {
    let w = names.matrix(g, name, 1, x.len as usize, Role::Router)?;
    Ok(g.linear(w, None, x))
}

/// A small network that foretells the router: `w2 * silu(w1 * x + b1) + b2`.
fn predictor<'a>(g: &mut Graph<'a>, names: &Names<'a>, x: Operand) -> Result<Operand, Error> {
    let width = x.len as usize / 2;
    let layer = |g: &mut Graph<'a>, n: u32, rows: usize, x: Operand| {
        let w = names.matrix(g, &format!("predictor.{n}.weight"), rows, x.len as usize, Role::Router)?;
        let bias = names.bias(g, &format!("predictor.{n}.bias"), rows, true)?;
        Ok::<_, Error>(g.linear(w, bias, x))
    };
    let hidden = layer(g, 0, width, x)?;
    g.activate(Activation::Silu, hidden);
    layer(g, 2, 1, hidden)
}

impl Mixers {
    fn new(config: &Config, g: &mut Graph<'_>, d_model: usize) -> Result<Self, Error> {
        let eps = config.number_or("norm_epsilon", 1e-5)? as f32;
        let mamba = config.maybe_object("mamba")?.map(|c| {
            Ok::<_, Error>(Mamba1 {
                d_inner: c.size("d_inner")?,
                d_state: c.size("d_state")?,
                d_conv: c.size("d_conv")?,
                dt_rank: c.size("dt_rank")?,
                bias: false,
                conv_bias: true,
                norms: StepNorms::None,
            })
        });
        let mamba2 = config.maybe_object("mamba2")?.map(|c| {
            let mixer = Mamba2 {
                heads: c.size("heads")?,
                head_dim: c.size("headdim")?,
                d_state: c.size("d_state")?,
                groups: c.maybe_size("ngroups")?.unwrap_or(1),
                d_conv: c.size("d_conv")?,
                bias: false,
                out_bias: false,
                conv_bias: true,
                gating: Gating::GateThenNorm,
                eps,
                dt_limit: (0.0, f32::INFINITY),
            };
            mixer.checked(&c, "ngroups")
        });
        let attention = config.maybe_object("attention")?.map(|c| {
            let attention = SelfAttention::new(&c, d_model, None)?;
            let head_dim = attention.head_dim;
            if c.value("rope_theta").is_some() { attention.with_rotary(g, &c, head_dim, 10_000.0) } else { Ok(attention) }
        });
        let mlp = config.maybe_object("mlp")?.map(|c| Ok::<_, Error>(GatedMlp::llama(c.size("width")?)));
        Ok(Mixers { mamba: mamba.transpose()?, mamba2: mamba2.transpose()?, attention: attention.transpose()?, mlp: mlp.transpose()?, eps })
    }

    /// `x += mixer(norm(x))`.
    fn add<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, mixer: &str, x: Operand, config: &Config) -> Result<(), Error> {
        let normed = names.rms_norm(g, "norm.weight", x, self.eps)?;
        let inner = names.under("mixer");
        let y = match (mixer, &self.mamba, &self.mamba2, &self.attention, &self.mlp) {
            ("mamba", Some(mixer), ..) => mixer.build(g, &inner, normed)?,
            ("mamba2", _, Some(mixer), ..) => mixer.build(g, &inner, normed)?,
            ("attention", _, _, Some(mixer), _) => mixer.build(g, &inner, normed)?,
            ("mlp", .., Some(mixer)) => mixer.build(g, &inner, normed)?,
            ("mamba" | "mamba2" | "attention" | "mlp", ..) => return Err(config.error(mixer, "is missing, and `layers` has such a layer")),
            _ => return Err(config.error("layers", format!("names \"{mixer}\"; supported are mamba, mamba2, attention and mlp"))),
        };
        g.add(x, y, 1.0);
        Ok(())
    }
}
