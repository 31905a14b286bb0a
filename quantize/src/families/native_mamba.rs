//! Mamba and Mamba-2, with or without attention, as state-spaces/mamba writes them: a config of its own, without `model_type`.

use super::mamba2::dt_limit;
use super::mixer::{Gating, Mamba1, Mamba2, StepNorms};
use super::native_attention::NativeAttention;
use super::{Names, text_graph};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::Error;
use crate::graph::{Graph, Operand, Role};
use brooklet::ops::TensorId;
use serde_json::json;

/// Epsilon of every norm; a constant of the reference.
const EPS: f32 = 1e-5;
/// The MLP's width is rounded up to a multiple of this.
const MLP_MULTIPLE: usize = 128;

enum Mixer {
    One(Mamba1),
    Two(Mamba2),
}

impl Mixer {
    fn build<'a>(&self, g: &mut Graph<'a>, names: &Names<'a>, x: Operand) -> Result<Operand, Error> {
        match self {
            Mixer::One(mixer) => mixer.build(g, names, x),
            Mixer::Two(mixer) => mixer.build(g, names, x),
        }
    }
}

pub(super) fn build(checkpoint: &Checkpoint) -> Result<Graph<'_>, Error> {
    let config = &checkpoint.config;
    config.refuse_unless("rms_norm", &json!(true))?;
    let d_model = config.size("d_model")?;
    let layers = config.size("n_layer")?;
    let attention_layers = attention_layers(config, layers)?;
    let attention = match attention_layers.is_empty() {
        true => None,
        false => Some(NativeAttention::read(&config.object("attn_cfg")?, d_model)?),
    };
    let vocab = config.size("vocab_size")?;
    let padded_vocab = vocab.next_multiple_of(config.maybe_size("pad_vocab_size_multiple")?.unwrap_or(8));
    let mlp_width = config.count_or("d_intermediate", 0)?.next_multiple_of(MLP_MULTIPLE);
    let (family, mixer) = mixer(&config.object("ssm_cfg")?, d_model)?;

    let mut g = text_graph(checkpoint, vocab)?;
    g.card.family = family.to_owned();
    let backbone = Names::new(checkpoint, "backbone.");
    let embedding = if backbone.has("embeddings.weight") { "embeddings.weight" } else { "embedding.weight" };
    let table = unpadded(&mut g, checkpoint, backbone.full(embedding), vocab, padded_vocab, d_model)?;
    let x = g.embed(table, d_model, 1.0);
    let rotary = attention.as_ref().and_then(|attention| attention.rotary(&mut g));
    for i in 0..layers {
        let layer = backbone.under(&format!("layers.{i}"));
        let normed = layer.rms_norm(&mut g, "norm.weight", x, EPS)?;
        let names = layer.under("mixer");
        let y = match attention.as_ref().filter(|_| attention_layers.contains(&i)) {
            Some(attention) => attention.build(&mut g, &names, normed, rotary)?,
            None => mixer.build(&mut g, &names, normed)?,
        };
        g.add(x, y, 1.0);
        if mlp_width > 0 {
            let normed = layer.rms_norm(&mut g, "norm2.weight", x, EPS)?;
            // Unlike in other gated MLPs, the gate's rows come second.
            let both = layer.linear(&mut g, "mlp.fc1", 2 * mlp_width, normed, false)?;
            let [value, gate] = both.split([mlp_width, mlp_width]);
            g.silu_multiply(gate, value);
            let y = layer.linear(&mut g, "mlp.fc2", d_model, gate, false)?;
            g.add(x, y, 1.0);
        }
    }
    let normed = backbone.rms_norm(&mut g, "norm_f.weight", x, EPS)?;
    let head = match config.flag_or("tie_embeddings", true)? {
        true => table,
        false => unpadded(&mut g, checkpoint, "lm_head.weight".to_owned(), vocab, padded_vocab, d_model)?,
    };
    g.head(head, None, normed, 1.0);
    Ok(g)
}

/// Which layers are attention.
fn attention_layers(config: &Config, layers: usize) -> Result<Vec<usize>, Error> {
    if config.value("attn_layer_idx").is_none() {
        return Ok(Vec::new());
    }
    let listed = config.numbers("attn_layer_idx")?;
    if let Some(bad) = listed.iter().find(|&&i| !(i >= 0.0 && i.fract() == 0.0 && (i as usize) < layers)) {
        return Err(config.error("attn_layer_idx", format!("names layer {bad}, expected numbers from 0 to {}", layers - 1)));
    }
    Ok(listed.into_iter().map(|i| i as usize).collect())
}

/// The first `vocab` rows of a matrix (padded_vocab, d_model): the rest belongs to no token.
fn unpadded<'a>(
    g: &mut Graph<'a>,
    checkpoint: &'a Checkpoint,
    name: String,
    vocab: usize,
    padded_vocab: usize,
    d_model: usize,
) -> Result<TensorId, Error> {
    checkpoint.expect(&name, &[padded_vocab, d_model])?;
    let of = name.clone();
    Ok(g.matrix(name, vocab, d_model, Role::Embedding, move || {
        let mut data = checkpoint.tensor(&of, &[padded_vocab, d_model])?.data;
        data.truncate(vocab * d_model);
        Ok(data)
    }))
}

/// The family and the mixer that `ssm_cfg` describes.
fn mixer(ssm: &Config, d_model: usize) -> Result<(&'static str, Mixer), Error> {
    let d_inner = (ssm.number_or("expand", 2.0)? * d_model as f64) as usize;
    let d_conv = ssm.maybe_size("d_conv")?.unwrap_or(4);
    let (bias, conv_bias) = (ssm.flag_or("bias", false)?, ssm.flag_or("conv_bias", true)?);
    match ssm.maybe_text("layer")? {
        None | Some("Mamba1") => {
            let dt_rank = ssm.size_or_auto("dt_rank", d_model.div_ceil(16))?;
            let d_state = ssm.maybe_size("d_state")?.unwrap_or(16);
            Ok(("mamba", Mixer::One(Mamba1 { d_inner, d_state, d_conv, dt_rank, bias, conv_bias, norms: StepNorms::None })))
        }
        Some("Mamba2") => {
            for (key, supported) in [
                ("rmsnorm", json!(true)),
                ("norm_before_gate", json!(false)),
                ("D_has_hdim", json!(false)),
                ("learnable_init_states", json!(false)),
                ("d_ssm", json!(d_inner)),
            ] {
                ssm.refuse_unless(key, &supported)?;
            }
            let head_dim = ssm.maybe_size("headdim")?.unwrap_or(64);
            if !d_inner.is_multiple_of(head_dim) || d_inner == 0 {
                return Err(ssm.error("headdim", format!("is {head_dim}, which does not divide expand * d_model = {d_inner}")));
            }
            let mixer = Mamba2 {
                heads: d_inner / head_dim,
                head_dim,
                d_state: ssm.maybe_size("d_state")?.unwrap_or(128),
                groups: ssm.maybe_size("ngroups")?.unwrap_or(1),
                d_conv,
                bias,
                out_bias: bias,
                conv_bias,
                gating: Gating::GateThenNorm,
                eps: EPS,
                dt_limit: dt_limit(ssm, "dt_limit")?,
            };
            Ok(("mamba2", Mixer::Two(mixer.checked(ssm, "ngroups")?)))
        }
        Some(other) => Err(ssm.error("layer", format!("is \"{other}\"; supported are Mamba1 and Mamba2"))),
    }
}
