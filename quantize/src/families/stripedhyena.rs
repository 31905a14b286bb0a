//! StripedHyena (`model_type` "stripedhyena"): gated convolutions, short ones by taps and long ones by poles and residues, or
//! attention, then a gated MLP, in every layer. Config and names as togethercomputer/stripedhyena has them.

use super::attention::{SelfAttention, check_head_dim};
use super::discretise::{Complex, planes};
use super::mixer::transpose;
use super::mlp::{GateUp, GatedMlp, activation};
use super::{Names, layers_under, text_graph};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::Error;
use crate::graph::{Graph, Operand, Role};
use brooklet::ops::{Activation, NormKind, Stepping};
use serde_json::json;

/// What all Hyena layers share.
struct Hyena {
    /// Complex modes of a channel's long filter.
    modes: usize,
    /// Taps of the short filter.
    taps: usize,
    short_bias: bool,
    /// Channels whose x2, x1 and v lie together in the projection: a head's, or all.
    chunk: usize,
}

pub(super) fn build(checkpoint: &Checkpoint) -> Result<Graph<'_>, Error> {
    let config = &checkpoint.config;
    for (key, supported) in [
        ("hyena_filter_groups", json!(1)),
        ("smeared_gqa", json!(false)),
        ("use_interpolated_rotary_pos_emb", json!(false)),
        ("final_norm", json!(true)),
        ("long_fir_threshold", json!(null)),
    ] {
        config.refuse_unless(key, &supported)?;
    }
    let d_model = config.size("hidden_size")?;
    let vocab = config.size("vocab_size")?;
    let heads = config.size("num_attention_heads")?;
    if !d_model.is_multiple_of(heads) {
        return Err(config.error("num_attention_heads", format!("is {heads}, which does not divide hidden_size = {d_model}")));
    }
    let hyena = Hyena {
        modes: config.size("state_size")?,
        taps: config.maybe_size("short_filter_length")?.unwrap_or(3),
        short_bias: config.flag_or("short_filter_bias", true)?,
        chunk: if config.flag_or("column_split_hyena", true)? { d_model / heads } else { d_model },
    };
    let mlp = GatedMlp {
        width: config.size("inner_mlp_size")?,
        f: activation(config, "mlp_activation", Activation::Silu)?,
        bias: false,
        gate_up: GateUp::Split("l1", "l2"),
        down: "l3",
    };
    let mut g = text_graph(checkpoint, vocab)?;
    let is_attention = kinds(config, layers_under(checkpoint, config, "num_layers")?)?;
    let attention = if is_attention.contains(&true) { Some(attention(&mut g, config, d_model, heads)?) } else { None };
    let prefix = if checkpoint.has("backbone.embedding_layer.weight") { "backbone." } else { "" };
    let model = Names::new(checkpoint, prefix);
    let table = model.matrix(&mut g, "embedding_layer.weight", vocab, d_model, Role::Embedding)?;
    let x = g.embed(table, d_model, 1.0);
    for (i, is_attention) in is_attention.into_iter().enumerate() {
        let block = model.under(&format!("blocks.{i}"));
        let normed = norm(&mut g, config, &block, "pre_norm", x)?;
        let y = match &attention {
            Some(attention) if is_attention => {
                let mha = block.under("inner_mha_cls");
                let kv_len = attention.kv_heads * attention.head_dim;
                let qkv = mha.linear(&mut g, "Wqkv", d_model + 2 * kv_len, normed, attention.bias)?;
                let y = attention.attend(&mut g, &mha, qkv.split([d_model, kv_len, kv_len]))?;
                mha.linear(&mut g, attention.out_proj, d_model, y, attention.out_bias)?
            }
            _ => hyena.build(&mut g, &block, normed)?,
        };
        g.add(x, y, 1.0);
        let normed = norm(&mut g, config, &block, "post_norm", x)?;
        let y = mlp.build(&mut g, &block.under("mlp"), normed)?;
        g.add(x, y, 1.0);
    }
    let normed = norm(&mut g, config, &model, "norm", x)?;
    let tied = config.flag_or("tie_embeddings", false)?;
    let head = if tied { table } else { model.matrix(&mut g, "unembed.weight", vocab, d_model, Role::Embedding)? };
    g.head(head, None, normed, 1.0);
    Ok(g)
}

/// Which layers are attention: every layer must be in one of the two lists.
fn kinds(config: &Config, layers: usize) -> Result<Vec<bool>, Error> {
    let (attention, hyena) = (config.numbers("attn_layer_idxs")?, config.numbers("hyena_layer_idxs")?);
    let lists = |list: &[f32], layer: usize| list.contains(&(layer as f32));
    if let Some(layer) = (0..layers).find(|&i| lists(&attention, i) == lists(&hyena, i)) {
        return Err(
            config.error("attn_layer_idxs", format!("and hyena_layer_idxs must name each layer once between them, unlike layer {layer}"))
        );
    }
    Ok((0..layers).map(|i| lists(&attention, i)).collect())
}

fn attention(g: &mut Graph<'_>, config: &Config, d_model: usize, heads: usize) -> Result<SelfAttention, Error> {
    let shared = config.maybe_size("proj_groups")?.unwrap_or(1);
    if !heads.is_multiple_of(shared) {
        return Err(config.error("proj_groups", format!("is {shared}, which does not divide the {heads} heads")));
    }
    let head_dim = d_model / heads;
    check_head_dim(config, "num_attention_heads", head_dim)?;
    let theta = config.number_or("rotary_emb_base", 10_000.0)?;
    if theta < 1.0 {
        return Err(config.error("rotary_emb_base", format!("is {theta}, expected at least 1")));
    }
    let turns: Vec<f64> = (0..head_dim / 2).map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64)).collect();
    Ok(SelfAttention {
        heads,
        kv_heads: heads / shared,
        head_dim,
        scale: (head_dim as f64).powf(-0.5) as f32,
        bias: config.flag_or("qkv_proj_bias", true)?,
        out_bias: config.flag_or("mha_out_proj_bias", true)?,
        out_proj: "out_proj",
        head_norms: None,
        rotary: Some(g.turns("rotary.turns", &turns)),
        window: None,
    })
}

/// The norm `name.scale`; the fused kernel that a config may ask for has its epsilon under the root.
fn norm<'a>(g: &mut Graph<'a>, config: &Config, names: &Names<'a>, name: &str, x: Operand) -> Result<Operand, Error> {
    let kind = if config.flag_or("use_flash_rmsnorm", false)? { NormKind::Rms } else { NormKind::RmsEpsOutside };
    let weight = names.array(g, &format!("{name}.scale"), &[x.len as usize])?;
    Ok(g.norm(kind, x, Some(weight), None, config.number_or("eps", 1e-5)? as f32))
}

impl Hyena {
    /// `out(x2 * long(x1 * v))` with x2, x1, v from the short filter, (d_model) to (d_model).
    fn build<'a>(&self, g: &mut Graph<'a>, block: &Names<'a>, x: Operand) -> Result<Operand, Error> {
        let (channels, modes, taps, chunk) = (x.len as usize, self.modes, self.taps, self.chunk);
        let rows = 3 * channels;
        // Row of the checkpoint for row `i` of all x2, then all x1, then all v.
        let from = move |i: usize| i % channels / chunk * 3 * chunk + i / channels * chunk + i % chunk;
        let reorder =
            move |x: &[f32], width: usize| -> Vec<f32> { (0..rows).flat_map(|i| x[from(i) * width..][..width].to_vec()).collect() };
        let (name, checkpoint) = (block.full("projections.weight"), block.checkpoint);
        checkpoint.expect(&name, &[rows, channels])?;
        let of = name.clone();
        let weight = g.matrix(name, rows, channels, Role::Projection, move || {
            Ok(reorder(&checkpoint.tensor(&of, &[rows, channels])?.data, channels))
        });
        let bias = g.array(block.full("projections.bias"), reorder(&block.read("projections.bias", &[rows])?, 1));
        let z = g.linear(weight, Some(bias), x);
        let filter = block.under("filter");
        let short = reorder(&filter.read("short_filter_weight", &[rows, taps])?, taps);
        let short = g.array(filter.full("short_filter_weight"), transpose(&short, rows, taps));
        let short_bias = match self.short_bias {
            true => Some(g.array(filter.full("short_filter_bias"), reorder(&filter.read("short_filter_bias", &[rows])?, 1))),
            false => None,
        };
        g.conv1d(z, short, short_bias, taps, false);
        let [x2, x1, v] = z.split([channels, channels, channels]);
        g.multiply(x1, v);
        let mut modes_of = |name: &str, less: f64| -> Result<_, Error> {
            let values = filter.read(name, &[channels, modes, 2])?;
            let entry = |h: usize, n: usize| {
                let at = 2 * (h * modes + n);
                Complex::new(f64::from(values[at]) - less, f64::from(values[at + 1]))
            };
            Ok(g.array(filter.full(name), planes(channels, modes, entry)))
        };
        let (a, c) = (modes_of("poles", 1.0)?, modes_of("residues", 0.0)?);
        let d = filter.array(g, "D", &[channels])?;
        let y = g.diag_ssm(x1, channels, a, Some(c), Some(d), Stepping::Fixed);
        g.multiply(y, x2);
        block.linear(g, "out_filter_dense", channels, y, true)
    }
}
