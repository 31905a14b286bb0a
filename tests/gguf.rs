//! GGUF files that llama.cpp's converter made of the family fixtures give what the fixtures' reference implementations give.
//!
//! `quantize/reference/make_gguf.py` makes them.

use brooklet::kernels;
use brooklet::kernels::quant::Format;
use brooklet_quantize::{Cache, CacheFormat, Checkpoint, Recipe, StateFormat};
use brooklet_tests::{File, Sequence, fixtures, read_npy, stream};
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;

/// Writes another text under a metadata key; all behind it moves.
fn set_text(bytes: &mut Vec<u8>, key: &str, text: &str) {
    let at = bytes.windows(key.len()).position(|w| w == key.as_bytes()).unwrap() + key.len() + 4;
    let old = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    bytes.splice(at..at + 8 + old, [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat());
}

/// Two small vocabularies, with llama.cpp's ids of the same texts by every way to split.
#[test]
fn tokens_are_those_of_llama_cpp() {
    let folder = fixtures().join("gguf");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("tokens.json")).unwrap()).unwrap();
    let texts: Vec<&str> = json["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    let cases = json["ids"].as_object().unwrap();
    assert_eq!(cases.len(), 13);
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("model.gguf");
    for (pre, ids) in cases {
        let mut bytes = std::fs::read(folder.join(if pre == "llama" { "tokens-spm.gguf" } else { "tokens-bpe.gguf" })).unwrap();
        if pre != "llama" {
            // The name makes room: the data must stay where it is.
            set_text(&mut bytes, "tokenizer.ggml.pre", pre);
            set_text(&mut bytes, "general.name", &"x".repeat(64 + "gpt-2".len() - pre.len()));
        }
        std::fs::write(&path, bytes).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        let tokenizer = Tokenizer::from_bytes(checkpoint.tokenizer().unwrap().unwrap()).unwrap();
        for (text, want) in texts.iter().zip(ids.as_array().unwrap()) {
            let want: Vec<u32> = want.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            assert_eq!(tokenizer.encode(*text, false).unwrap().get_ids(), want, "{pre}: {text:?}");
        }
        // What begins a text: SentencePiece and some ways to split add a first token, if the file names one.
        let first = tokenizer.encode("A", true).unwrap().get_ids()[0];
        assert_eq!(first == 1, pre == "llama", "{pre}");
    }
}

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
