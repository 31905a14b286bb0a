//! GGUF files that llama.cpp's converter made of the family fixtures give what the fixtures' reference implementations give.
//!
//! `quantize/reference/make_gguf.py` makes them.

use brooklet::kernels;
use brooklet::kernels::quant::Format;
use brooklet_quantize::{Cache, CacheFormat, Recipe, StateFormat};
use brooklet_tests::{File, Sequence, fixtures, read_npy, stream};
use std::path::{Path, PathBuf};

const FLOAT: Recipe = Recipe {
    format: Format::F32,
    embedding: None,
    state: StateFormat::F32,
    cache: Cache { context: 128, sink: None, format: CacheFormat::F32 },
};

/// Fixtures in both forms.
fn both() -> Vec<(PathBuf, PathBuf)> {
    let entries = std::fs::read_dir(fixtures().join("gguf")).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|p| p.extension().is_some_and(|e| e == "gguf")).collect();
    files.sort();
    let family = |file: &Path| fixtures().join("families").join(file.file_stem().unwrap());
    files.into_iter().map(|file| (file.clone(), family(&file))).filter(|(_, dir)| dir.exists()).collect()
}

fn largest(x: impl Iterator<Item = f32>) -> f32 {
    x.fold(0.0, |m, x| if x.is_nan() { f32::INFINITY } else { m.max(x.abs()) })
}

/// Outputs of a fixture whose config is another.
fn outputs_of(dir: &Path, edits: &[(&str, &str)], input: &Sequence) -> Vec<f32> {
    let copy = tempfile::tempdir().unwrap();
    let mut config = std::fs::read_to_string(dir.join("config.json")).unwrap();
    for (from, to) in edits {
        assert!(config.contains(from), "no `{from}` in {config}");
        config = config.replacen(from, to, 1);
    }
    std::fs::write(copy.path().join("config.json"), config).unwrap();
    std::fs::copy(dir.join("model.safetensors"), copy.path().join("model.safetensors")).unwrap();
    stream(&File::quantized(copy.path(), &FLOAT).model(), kernels::detect(), input, 64)
}

#[test]
fn outputs_match_the_reference() {
    let both = both();
    assert_eq!(both.len(), 19);
    for (file, dir) in both {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let input = Sequence::open(&dir);
        let model = File::quantized(&file, &FLOAT);
        let got = stream(&model.model(), kernels::detect(), &input, 64);
        let edits: &[(&str, &str)] = match name.as_str() {
            // The converter takes heads of even sizes only: the same tensors as half as many heads, in both forms.
            "granite-moe" => &[
                ("\"num_attention_heads\": 4", "\"num_attention_heads\": 2"),
                ("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 1"),
            ],
            // It writes one epsilon of two; the published models have this one here.
            "falcon-mamba" => &[("\"mixer_rms_eps\": 0.02", "\"mixer_rms_eps\": 1e-6")],
            // It folds the factor of the embedding into the table, and where the head is the same table, forgets the head's own.
            "falcon-h1-norm-after" => &[("\"lm_head_multiplier\": 0.8", "\"lm_head_multiplier\": 1.7")],
            // It leaves a factor of the experts out, which the published models have as 1.
            "lfm2-moe" => &[("\"routed_scaling_factor\": 1.3", "\"routed_scaling_factor\": 1.0")],
            _ => &[],
        };
        let want = if edits.is_empty() { read_npy(&dir.join("expected.npy")) } else { outputs_of(&dir, edits, &input) };
        assert_eq!(got.len(), want.len(), "{name}");
        let difference = largest(got.iter().zip(&want).map(|(a, b)| a - b)) / largest(want.iter().copied());
        println!("{name:24} {difference:.1e}");
        assert!(difference <= 2e-5, "{name}: {difference:e} of the largest logit");
    }
}
