//! Broken checkpoints: each error names the file, the thing in it and what to do; nothing is written.

use brooklet_quantize::{Checkpoint, Recipe, quantize};
use brooklet_tests::fixtures;
use std::collections::HashMap;
use std::path::Path;
use tempfile::TempDir;

/// A copy of a fixture to break.
fn copy(name: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixtures().join("families").join(name)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

/// The error that quantizing `dir` gives; nothing may be left behind.
fn error(dir: &Path) -> String {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("model.brook");
    let result = Checkpoint::open(dir).and_then(|c| quantize(&c, &Recipe::default(), &path, &mut |_| {}));
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0, "something was left behind");
    result.map(|_| ()).unwrap_err().to_string()
}

fn expect(dir: &Path, parts: &[&str]) {
    let message = error(dir);
    for part in parts {
        assert!(message.contains(part), "`{message}` does not say `{part}`");
    }
}

/// Changes `config.json` as text.
fn edit_config(dir: &Path, from: &str, to: &str) {
    let path = dir.join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "no `{from}` in config.json");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

/// A tensor as (type, shape, bytes).
type Raw = (safetensors::Dtype, Vec<usize>, Vec<u8>);

/// Changes the tensors of `model.safetensors`.
fn edit_tensors(dir: &Path, edit: impl FnOnce(&mut HashMap<String, Raw>)) {
    let path = dir.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: HashMap<String, Raw> =
        file.iter().map(|(name, t)| (name.to_owned(), (t.dtype(), t.shape().to_vec(), t.data().to_vec()))).collect();
    edit(&mut tensors);
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap()))
        .collect();
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn broken_configs() {
    let cases: &[(&str, &str, &str, &[&str])] = &[
        (
            "mamba2-g2",
            "\"model_type\": \"mamba2\"",
            "\"model_type\": \"mamba9\"",
            &["config.json", "`model_type`", "mamba9", "supported are mamba"],
        ),
        ("mamba2-g2", "\"num_heads\"", "\"nr_heads\"", &["config.json", "`num_heads`", "missing"]),
        ("mamba2-g2", "\"hidden_size\": 24", "\"hidden_size\": \"wide\"", &["config.json", "`hidden_size`", "\"wide\"", "whole number"]),
        ("mamba2-g2", "\"hidden_size\": 24", "\"hidden_size\": 0", &["config.json", "`hidden_size`", "0"]),
        ("mamba2-g2", "\"hidden_size\": 24", "\"hidden_size\": -3", &["config.json", "`hidden_size`", "-3"]),
        ("sensor-mamba2-last", "\"rate_hz\": 50.0", "\"rate_hz\": 1e300", &["config.json", "rate_hz`", "above 0"]),
        ("mamba2-g2", "\"n_groups\": 2", "\"n_groups\": 4", &["n_groups", "4", "6 heads"]),
        ("mamba2-g2", "\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"", &["config.json", "`hidden_act`", "gelu", "silu"]),
        ("mamba2-g2", "\"hidden_size\": 24", "\"hidden_size\": 32", &["tensor", "shape", "do not belong together"]),
        (
            "granite-rope",
            "\"rope_type\": \"default\"",
            "\"rope_type\": \"dynamic\"",
            &["config.json", "`rope_parameters.rope_type`", "dynamic", "default, linear, llama3 and yarn"],
        ),
        (
            "granite-rope",
            "\"rope_type\": \"default\"",
            "\"rope_type\": \"llama3\"",
            &["config.json", "`rope_parameters.factor`", "missing"],
        ),
        ("sensor-mamba2-last", "\"pooling\": \"last\"", "\"pooling\": \"best\"", &["config.json", "`output.pooling`", "best", "ema"]),
        ("lfm3", "\"sliding_attention\",", "\"chunked_attention\",", &["config.json", "`layer_types`", "entry 1", "chunked_attention"]),
        ("lfm3", "\"proportional\"", "\"yarn\"", &["`rope_parameters.full_attention.rope_type`", "yarn", "proportional"]),
        ("sensor-missing-hold", "\"hold\"", "\"guess\"", &["config.json", "`input.missing`", "guess", "hold, mean and zero"]),
        ("sensor-s4d-zoh", "\"zoh\"", "\"foh\"", &["config.json", "`ssm_cfg.discretization`", "foh", "bilinear"]),
        ("sensor-s4d-zoh", "\"d_state\": 16", "\"d_state\": 15", &["config.json", "`ssm_cfg.d_state`", "15", "even"]),
        ("sensor-s4d-zoh", "\"layer\": \"S4D\"", "\"layer\": \"S4\"", &["config.json", "`ssm_cfg.layer`", "\"S4\"", "S4D"]),
        ("sensor-s5-full", "\"full_glu\"", "\"glu\"", &["config.json", "`ssm_cfg.activation`", "\"glu\"", "half_glu1"]),
        ("stripedhyena", "\"proj_groups\": 2", "\"proj_groups\": 3", &["config.json", "`proj_groups`", "3", "4 heads"]),
        ("stripedhyena", "\"num_layers\": 3", "\"num_layers\": 4", &["config.json", "`attn_layer_idxs`", "layer 3"]),
        ("sensor-mamba2-last", "\"std\": [", "\"std\": [1.0, ", &["config.json", "`input.std`", "7 entries for 6 channels"]),
    ];
    for (name, from, to, parts) in cases {
        let dir = copy(name);
        edit_config(dir.path(), from, to);
        expect(dir.path(), parts);
    }
    let dir = copy("mamba2-g2");
    std::fs::write(dir.path().join("config.json"), "{\"model_type\": ").unwrap();
    expect(dir.path(), &["config.json", "cannot be read", "line 1"]);
    std::fs::remove_file(dir.path().join("config.json")).unwrap();
    expect(dir.path(), &["config.json"]);
    expect(Path::new("/no/such/checkpoint"), &["/no/such/checkpoint", "neither a folder nor a file", "config.json"]);
}

#[test]
fn broken_tensors() {
    let name = "backbone.layers.0.mixer.A_log";
    let dir = copy("mamba2-g2");
    edit_tensors(dir.path(), |t| drop(t.remove(name)));
    expect(dir.path(), &[name, "is missing", "all its shards"]);

    let dir = copy("mamba2-g2");
    edit_tensors(dir.path(), |t| t.get_mut(name).unwrap().1.push(1));
    let out = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    quantize(&checkpoint, &Recipe::default(), &out.path().join("ok.brook"), &mut |_| {}).unwrap();

    let dir = copy("mamba2-g2");
    edit_tensors(dir.path(), |t| {
        let (_, shape, data) = t.get_mut(name).unwrap();
        shape[0] -= 1;
        data.truncate(data.len() - 4);
    });
    expect(dir.path(), &["model.safetensors", name, "[5]", "[6]"]);

    for (value, said) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        for name in [name, "backbone.layers.0.mixer.in_proj.weight"] {
            let dir = copy("mamba2-g2");
            edit_tensors(dir.path(), |t| t.get_mut(name).unwrap().2[4..8].copy_from_slice(&value.to_le_bytes()));
            expect(dir.path(), &["model.safetensors", name, "element 1", said]);
        }
    }

    // A mode that neither decays nor turns has no place where steps may have any length.
    let dir = copy("sensor-s5-irregular");
    edit_tensors(dir.path(), |t| {
        for part in ["Lambda_re", "Lambda_im"] {
            t.get_mut(&format!("backbone.layers.0.mixer.{part}")).unwrap().2[..4].fill(0);
        }
    });
    expect(dir.path(), &["mixer.Lambda_re", "neither decays nor turns", "`irregular`"]);

    let dir = copy("mamba2-g2");
    edit_tensors(dir.path(), |t| t.get_mut(name).unwrap().0 = safetensors::Dtype::I32);
    expect(dir.path(), &["model.safetensors", name, "I32", "BF16"]);
}

#[test]
fn broken_files() {
    let dir = copy("mamba2-g2");
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for len in [0, 4, 8, 20, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..len]).unwrap();
        expect(dir.path(), &["model.safetensors"]);
    }
    let mut huge = bytes.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(&path, huge).unwrap();
    expect(dir.path(), &["model.safetensors", "header"]);
    std::fs::remove_file(&path).unwrap();
    expect(dir.path(), &["no .safetensors file", "convert"]);

    let dir = copy("mamba2-sharded");
    let index = dir.path().join("model.safetensors.index.json");
    let text = std::fs::read_to_string(&index).unwrap();
    std::fs::write(&index, text.replacen("model-00002", "../model-00002", 1)).unwrap();
    expect(dir.path(), &["index.json", "plain file name"]);
    std::fs::write(&index, text).unwrap();
    let second = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).find(|p| p.to_string_lossy().contains("00002-of"));
    std::fs::remove_file(second.unwrap()).unwrap();
    expect(dir.path(), &["model-00002-of"]);
}

#[test]
fn recurrent_nets_are_refused_where_they_cannot_stream() {
    for (fixture, from, to, parts) in [
        ("rnn-gru-unit", "\"GRU\"", "\"Elman\"", ["`rnn`", "LSTM and GRU"]),
        ("rnn-gru-unit", "\"bias\": true", "\"bidirectional\": true", ["`bidirectional`", "only false"]),
        ("rnn-gru-unit", "\"hidden_size\": 37", "\"hidden_size\": 38", ["rnn.weight_ih_l0", "[111, 5]"]),
        ("rnn-gru-unit", "\"values\"", "\"numbers\"", ["output.classes", "`values`"]),
        ("rnn-lstm-classes", "\"tanh\"", "\"sine\"", ["encoder.activation", "relu"]),
        ("silero-small", "\"pad\": 4", "\"pad\": 40", ["`pad`", "36 samples"]),
        ("silero-small", "\"hop_length\": 8", "\"hop_length\": 3", ["`conv_strides`", "positions"]),
        ("silero-small", "\"num_samples\": 32", "\"num_samples\": 5000", ["`num_samples`", "4096"]),
        ("silero-small", "\"context_size\": 4", "\"context_size\": 5000", ["`context_size`", "4096"]),
        ("silero-small", "\"context_size\": 4", "\"context_size\": 4000", ["`hop_length`", "64"]),
    ] {
        let dir = copy(fixture);
        edit_config(dir.path(), from, to);
        expect(dir.path(), &parts);
    }
}

#[test]
fn s4_is_refused_where_it_cannot_stream() {
    for (fixture, from, to, parts) in [
        ("s4-dplr-rank2", "\"rank\": 2", "\"rank\": 2, \"bidirectional\": true", ["`layer_args.bidirectional`", "only false"]),
        ("s4-dplr-rank2", "\"rank\": 2", "\"rank\": 2, \"gate\": 4", ["`layer_args.gate`", "only null"]),
        ("s4-dplr-rank2", "\"rank\": 2", "\"rank\": 1", ["kernel.P", "[2, 6, 8, 2]"]),
        ("s4-dplr-rank2", "\"n_ssm\": 6", "\"n_ssm\": 7", ["18 channels", "n_ssm must divide"]),
        ("s4-dplr-rank2", "\"mode\": \"dplr\"", "\"mode\": \"dense\"", ["`layer_args.mode`", "nplr"]),
        ("s4-dplr-rank2", "\"d_state\": 16", "\"d_state\": 1026", ["`layer_args.d_state`", "1024"]),
        ("s4-diag-zoh", "\"disc\": \"zoh\"", "\"disc\": \"dss\"", ["`layer_args.disc`", "bilinear"]),
        ("s4-diag-zoh", "\"layer\": \"S4Block\"", "\"layer\": \"S4ND\"", ["`layer`", "S4Block and S4D"]),
        ("s4-diag-zoh", "\"pooling\"", "\"pool\"", ["`output.pooling`", "missing"]),
    ] {
        let dir = copy(fixture);
        edit_config(dir.path(), from, to);
        expect(dir.path(), &parts);
    }
    let length = "s4_layers.0.layer.kernel.l_kernel";
    let dir = copy("s4-dplr-rank2");
    edit_tensors(dir.path(), |t| t.get_mut(length).unwrap().2.fill(0xff));
    expect(dir.path(), &[length, "one whole number", "I64"]);
}

#[test]
fn native_attention_is_refused_where_it_cannot_stream() {
    for (from, to, parts) in [
        ("\"causal\": true", "\"causal\": false", ["`attn_cfg.causal`", "looks ahead"]),
        ("\"rotary_emb_dim\": 8", "\"rotary_emb_dim\": 14", ["`attn_cfg.rotary_emb_dim`", "a head's 12"]),
        ("\"rotary_emb_dim\": 8", "\"rotary_emb_interleaved\": true", ["`attn_cfg.rotary_emb_interleaved`", "only false"]),
        ("\"num_heads\": 3", "\"num_heads\": 3, \"num_heads_kv\": 2", ["`attn_cfg.num_heads_kv`", "cannot share"]),
        ("\"d_conv\": 4", "\"d_conv\": 3", ["mixer.conv1d.weight", "[108, 1, 4]"]),
        ("\"attn_layer_idx\": [\n    1", "\"attn_layer_idx\": [\n    3", ["`attn_layer_idx`", "0 to 2"]),
    ] {
        let dir = copy("native-attention");
        edit_config(dir.path(), from, to);
        expect(dir.path(), &parts);
    }
}

#[test]
fn levels_that_do_not_fit_each_other_are_refused() {
    for (from, to, parts) in [
        ("\"num_coeffs\": 5", "\"num_coeffs\": 6", ["down_ssms.0.0.0.", "42"]),
        ("\"pre_conv\": true", "\"pre_conv\": false", ["down_ssms.1.0.0.A", "is missing"]),
        ("\"in_channels\": 1", "\"in_channels\": 5000", ["`in_channels`", "4096"]),
        ("\"repeat\": 7", "\"repeat\": 70000", ["`repeat`", "65536"]),
        ("\"resample_factors\": [\n    4,", "\"resample_factors\": [\n    1.5,", ["`resample_factors`", "whole numbers"]),
        ("\"resample_factors\": [\n    4,", "\"resample_factors\": [\n    4096,\n    64,\n", ["`resample_factors`", "4 entries for 3"]),
        ("\"resample_factors\": [\n    4,\n    2,", "\"resample_factors\": [\n    4096,\n    64,", ["`resample_factors`", "multiply"]),
        ("\"resample_factors\": [\n    4,\n    2,", "\"resample_factors\": [\n    4096,\n    32,", ["`resample_factors`", "samples late"]),
        ("\"resample_factors\": [\n    4,", "\"resample_factors\": [", ["`resample_factors`", "2 entries for 3"]),
    ] {
        let dir = copy("attenuate");
        edit_config(dir.path(), from, to);
        expect(dir.path(), &parts);
    }
    // Levels that change no rate delay nothing, however many there are.
    let dir = copy("attenuate");
    let many = "1, ".repeat(1_000_000);
    for key in ["channels", "resample_factors"] {
        edit_config(dir.path(), &format!("\"{key}\": ["), &format!("\"{key}\": [{many}"));
    }
    expect(dir.path(), &["`channels`", "1000003 levels", "64"]);
}

/// Weights that others have packed are missing, or of other sizes or types: the config says how, and what to do instead. Its word alone is
/// no error: some models keep it beside weights of floats.
#[test]
fn packed_weights_are_called_so() {
    let name = "backbone.layers.0.mixer.in_proj.weight";
    let edits: [&dyn Fn(&mut HashMap<String, Raw>); 3] =
        [&|t| drop(t.remove(name)), &|t| t.get_mut(name).unwrap().0 = safetensors::Dtype::I32, &|t| {
            let (_, shape, data) = t.get_mut(name).unwrap();
            shape[0] /= 2;
            data.truncate(data.len() / 2);
        }];
    for edit in edits {
        let dir = copy("mamba2-g2");
        edit_config(dir.path(), "\"model_type\"", "\"quantization_config\": {\"quant_method\": \"gptq\"}, \"model_type\"");
        assert!(made(dir.path()).is_ok());
        edit_tensors(dir.path(), edit);
        expect(dir.path(), &[name, "quantization_config \"gptq\"", "original checkpoint of floats"]);
    }
}

/// The file made of `dir`.
fn made(dir: &Path) -> Result<Vec<u8>, String> {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("model.brook");
    let made = Checkpoint::open_as(dir, Some("model".to_owned())).and_then(|c| quantize(&c, &Recipe::default(), &path, &mut |_| {}));
    made.map_err(|e| e.to_string())?;
    Ok(std::fs::read(path).unwrap())
}

/// transformers saves a model without its head under names without the prefix that they have beside one; its head is the embedding, or lost.
#[test]
fn base_models_are_read_and_a_lost_head_is_told() {
    for (name, is_tied) in
        [("mamba-a", true), ("llama-tied", true), ("granite-rope", false), ("mamba2-bias-k3", true), ("nemotron-dense", false)]
    {
        let dir = copy(name);
        let whole = made(dir.path()).unwrap();
        edit_tensors(dir.path(), |tensors| {
            let without = |name: &str| name.trim_start_matches("backbone.").trim_start_matches("model.").to_owned();
            *tensors = tensors.drain().filter(|(name, _)| name != "lm_head.weight").map(|(name, t)| (without(&name), t)).collect();
        });
        if is_tied {
            assert_eq!(whole, made(dir.path()).unwrap(), "{name}");
        } else {
            expect(dir.path(), &["lm_head.weight", "is missing"]);
        }
    }
}
