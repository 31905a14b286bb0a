//! Published shapes by name, to be timed with random weights: speed needs a config, not a download.

use crate::checkpoint::{Checkpoint, Config, random_numbers};
use crate::error::Error;
use crate::lower::{Progress, Report, write_packed};
use crate::recipe::Recipe;
use crate::{families, methods};
use serde_json::{Value, json};
use std::path::Path;

/// Names of [`shape`]'s configs, with what they stand for.
pub const SHAPES: &[(&str, &str)] = &[
    ("mamba-130m", "Mamba, 24 layers of 768"),
    ("mamba2-130m", "Mamba-2, 24 layers of 768"),
    ("mamba2-2.7b", "Mamba-2, 64 layers of 2560"),
    ("granite-4.0-h-350m", "28 Mamba-2 and 4 attention layers of 768"),
    ("granite-4.0-h-1b", "36 Mamba-2 and 4 attention layers of 1536"),
    ("falcon-h1-0.5b", "Mamba-2 and attention side by side, 36 layers of 1024"),
    ("llama-130m", "a transformer, 30 layers of 576"),
    ("hybrid-130m", "seven Mamba-2 layers to one of attention, 24 of 768"),
    ("mamba-1m", "Mamba, 8 layers of 128, 256 tokens: a million weights"),
];

/// A checkpoint of random weights in the published shape `name`.
pub fn shape(name: &str) -> Result<Checkpoint, Error> {
    let config = config(name).ok_or_else(|| {
        let known = SHAPES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        Error::invalid(Path::new(name), "shape", format!("is not known; there are {known}"))
    })?;
    random(name, config)
}

/// Rows of a matrix that differ in [`write`]'s files.
const DRAWN_ROWS: usize = 64;

/// Writes the published shape `name` to `out`: a few rows of each matrix are drawn and rounded, and then repeated. Speed depends on neither.
pub fn write(name: &str, recipe: &Recipe, out: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Report, Error> {
    let checkpoint = shape(name)?;
    let graph = families::build(&checkpoint)?;
    let formats = recipe.formats(&graph);
    let mut pack = |tensor: usize, format| {
        let matrix = &graph.tensors[tensor];
        let drawn = random_numbers(&matrix.name, &[matrix.rows.min(DRAWN_ROWS), matrix.cols]);
        Ok(methods::pack_repeated(format, matrix.rows, matrix.cols, &drawn))
    };
    write_packed(&graph, recipe, &formats, out, &mut pack, progress)
}

/// A checkpoint of random weights under any `config` of a supported family.
pub fn random(name: &str, config: Value) -> Result<Checkpoint, Error> {
    Ok(Checkpoint::random(Config::new(Path::new(name), config)?))
}

fn config(name: &str) -> Option<Value> {
    let native = |layer: &str, d_model: usize, n_layer: usize, vocab: usize| {
        json!({"d_model": d_model, "n_layer": n_layer, "vocab_size": vocab, "ssm_cfg": {"layer": layer}, "d_intermediate": 0,
            "rms_norm": true, "attn_layer_idx": [], "tie_embeddings": true,
            "pad_vocab_size_multiple": if layer == "Mamba2" { 16 } else { 8 }})
    };
    let granite = |d_model: usize, layers: usize, attention: [usize; 4], head_dim: usize, width: usize, residual: f64, scale: f64| {
        let kinds: Vec<_> = (0..layers).map(|i| if attention.contains(&i) { "attention" } else { "mamba" }).collect();
        json!({"model_type": "granitemoehybrid", "hidden_size": d_model, "num_hidden_layers": layers, "layer_types": kinds,
            "vocab_size": 100352, "num_attention_heads": 12, "num_key_value_heads": 4, "mamba_n_heads": 48,
            "mamba_d_head": head_dim, "mamba_d_state": 128, "mamba_n_groups": 1, "mamba_d_conv": 4, "mamba_expand": 2,
            "mamba_conv_bias": true, "mamba_proj_bias": false, "shared_intermediate_size": width, "num_local_experts": 0,
            "embedding_multiplier": 12.0, "residual_multiplier": residual, "attention_multiplier": scale, "logits_scaling": 3.0,
            "position_embedding_type": "nope", "rms_norm_eps": 1e-5, "tie_word_embeddings": true})
    };
    Some(match name {
        "mamba-130m" => native("Mamba1", 768, 24, 50277),
        "mamba-1m" => native("Mamba1", 128, 8, 256),
        "mamba2-130m" => native("Mamba2", 768, 24, 50277),
        "mamba2-2.7b" => native("Mamba2", 2560, 64, 50277),
        "granite-4.0-h-350m" => granite(768, 32, [10, 13, 17, 27], 32, 2048, 0.246, 0.015625),
        "granite-4.0-h-1b" => granite(1536, 40, [5, 15, 25, 35], 64, 4096, 0.22, 0.0078125),
        "falcon-h1-0.5b" => json!({"model_type": "falcon_h1", "hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 36,
            "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "mamba_d_ssm": 1536, "mamba_n_heads": 24,
            "mamba_d_head": 64, "mamba_d_state": 128, "mamba_n_groups": 1, "mamba_d_conv": 4, "vocab_size": 32784,
            "tie_word_embeddings": false, "mamba_rms_norm": false, "mamba_norm_before_gate": false, "rope_theta": 1e11,
            "rms_norm_eps": 1e-5, "embedding_multiplier": 5.65, "lm_head_multiplier": 0.039, "key_multiplier": 0.39,
            "attention_out_multiplier": 0.9375, "ssm_in_multiplier": 1.25, "ssm_out_multiplier": 0.2357,
            "mlp_multipliers": [0.884, 0.586], "ssm_multipliers": [0.354, 0.25, 0.354, 0.5, 0.354]}),
        "llama-130m" => json!({"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": true}),
        "hybrid-130m" => {
            let layers: Vec<_> = (0..24).map(|i| if i % 8 == 4 { "attention" } else { "mamba2" }).collect();
            json!({"model_type": "brooklet_hybrid", "vocab_size": 50277, "d_model": 768, "norm_epsilon": 1e-5,
                "tie_word_embeddings": true, "layers": layers,
                "attention": {"num_attention_heads": 12, "num_key_value_heads": 4, "head_dim": 64, "rope_theta": 10000.0},
                "mamba2": {"heads": 24, "headdim": 64, "d_state": 128, "ngroups": 1, "d_conv": 4}})
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_name_has_a_shape_that_its_family_takes() {
        for (name, _) in super::SHAPES {
            let checkpoint = super::shape(name).unwrap();
            assert!(crate::families::build(&checkpoint).is_ok(), "{name}");
        }
        assert!(super::shape("mamba-7b").is_err());
    }
}
