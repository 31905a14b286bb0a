//! Falcon-H1 (`model_type` "falcon_h1"): Mamba-2 and attention side by side, then a gated MLP, in every layer.
//!
//! The family's multipliers go into the weights; those of the embedding and the logits are factors of their operations, since
//! both may use one table.

use super::attention::SelfAttention;
use super::granite_hybrid::mamba;
use super::mixer::{Gating, Mamba2};
use super::mlp::GatedMlp;
use super::{Factors, Names, head_matrix, layers, text_graph};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::Error;
use crate::graph::{Graph, Role};
use serde_json::json;

pub(super) fn build(checkpoint: &Checkpoint) -> Result<Graph<'_>, Error> {
    let config = &checkpoint.config;
    config.refuse_unless("hidden_act", &json!("silu"))?;
    let d_model = config.size("hidden_size")?;
    let vocab = config.size("vocab_size")?;
    let eps = config.number_or("rms_norm_eps", 1e-5)? as f32;
    // Null is not the default.
    let d_inner = match config.is_null("mamba_d_ssm") {
        true => d_model * config.maybe_size("mamba_expand")?.unwrap_or(2),
        false => config.maybe_size("mamba_d_ssm")?.unwrap_or(1024),
    };
    let gating = match (config.flag_or("mamba_rms_norm", false)?, config.flag_or("mamba_norm_before_gate", true)?) {
        (false, _) => Gating::Gate,
        (true, false) => Gating::GateThenNorm,
        (true, true) => Gating::NormThenGate,
    };
    let mixer = Mamba2 { gating, out_bias: config.flag_or("projectors_bias", false)?, ..mamba(config, d_inner, eps)? };
    let mlp = GatedMlp { bias: config.flag_or("mlp_bias", false)?, ..GatedMlp::llama(config.size("intermediate_size")?) };
    let mut g = text_graph(checkpoint, vocab)?;
    let shape = SelfAttention::new(config, d_model, Some(8))?;
    let head_dim = shape.head_dim;
    let attention = shape.with_biases(config)?.with_rotary(&mut g, config, head_dim, 10_000.0)?;
    // There is a factor for every row: the rows first.
    checkpoint.expect("model.layers.0.mamba.in_proj.weight", &[mixer.rows().iter().sum(), d_model])?;
    let factors = BranchFactors::new(config, &mixer)?;
    let model = Names::new(checkpoint, "model.");
    let table = model.matrix(&mut g, "embed_tokens.weight", vocab, d_model, Role::Embedding)?;
    let x = g.embed(table, d_model, config.number_or("embedding_multiplier", 1.0)? as f32);
    for i in 0..layers(checkpoint)? {
        let layer = model.under(&format!("layers.{i}"));
        let normed = layer.rms_norm(&mut g, "input_layernorm.weight", x, eps)?;
        let m = mixer.build(&mut g, &layer.under("mamba").with_factors(factors.mamba.clone()), normed)?;
        let a = attention.build(&mut g, &layer.under("self_attn").with_factors(factors.attention.clone()), normed)?;
        g.add(x, m, 1.0);
        g.add(x, a, 1.0);
        let normed = layer.rms_norm(&mut g, "pre_ff_layernorm.weight", x, eps)?;
        let y = mlp.build(&mut g, &layer.under("feed_forward").with_factors(factors.mlp.clone()), normed)?;
        g.add(x, y, 1.0);
    }
    let normed = model.rms_norm(&mut g, "final_layernorm.weight", x, eps)?;
    let tied = config.flag_or("tie_word_embeddings", false)?;
    let head = head_matrix(&mut g, checkpoint, table, tied)?;
    g.head(head, None, normed, config.number_or("lm_head_multiplier", 1.0)? as f32);
    Ok(g)
}

/// Factors of the projections in each branch of a layer.
struct BranchFactors {
    mamba: Vec<(&'static str, Factors)>,
    attention: Vec<(&'static str, Factors)>,
    mlp: Vec<(&'static str, Factors)>,
}

impl BranchFactors {
    fn new(config: &Config, mixer: &Mamba2) -> Result<Self, Error> {
        let number = |key: &str| Ok::<_, Error>(config.number_or(key, 1.0)? as f32);
        let [gate, down] = list(config, "mlp_multipliers")?;
        // z, x, B, C, dt
        let parts: [f32; 5] = list(config, "ssm_multipliers")?;
        let in_rows = mixer.rows().into_iter().zip(parts).flat_map(|(rows, factor)| std::iter::repeat_n(factor, rows)).collect();
        let attention_in = number("attention_in_multiplier")?;
        let all = |input: f32, output: f32| Factors { input, rows: vec![output] };
        Ok(BranchFactors {
            mamba: vec![
                ("in_proj", Factors { input: number("ssm_in_multiplier")?, rows: in_rows }),
                ("out_proj", all(1.0, number("ssm_out_multiplier")?)),
            ],
            attention: vec![
                ("q_proj", all(attention_in, 1.0)),
                ("k_proj", all(attention_in, number("key_multiplier")?)),
                ("v_proj", all(attention_in, 1.0)),
                ("o_proj", all(1.0, number("attention_out_multiplier")?)),
            ],
            mlp: vec![("gate_proj", all(1.0, gate)), ("down_proj", all(1.0, down))],
        })
    }
}

/// `N` multipliers, all one if the key is left out.
fn list<const N: usize>(config: &Config, key: &str) -> Result<[f32; N], Error> {
    if config.value(key).is_none() {
        return Ok([1.0; N]);
    }
    let found = config.numbers(key)?;
    <[f32; N]>::try_from(found).map_err(|found| config.error(key, format!("has {} entries, expected {N}", found.len())))
}
