//! GGUF files that llama.cpp's converter made of the family fixtures give what the fixtures' reference implementations give.
//!
//! `quantize/reference/make_gguf.py` makes them.

use brooklet::kernels;
use brooklet::kernels::quant::Format;
use brooklet_quantize::graph::Input;
use brooklet_quantize::{Cache, CacheFormat, Checkpoint, Recipe, StateFormat, families, quantize};
use brooklet_tests::gguf_file::GgufFile;
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

/// The Brooklet file of a GGUF file, or what is wrong with it.
fn made(gguf: &[u8]) -> Result<Vec<u8>, String> {
    let dir = tempfile::tempdir().unwrap();
    let [from, to] = ["model.gguf", "model.brook"].map(|name| dir.path().join(name));
    std::fs::write(&from, gguf).unwrap();
    let made = Checkpoint::open(&from).and_then(|checkpoint| quantize(&checkpoint, &FLOAT, &to, &mut |_| {}));
    made.map_err(|e| e.to_string())?;
    Ok(std::fs::read(&to).unwrap())
}

fn refused(gguf: &[u8], parts: &[&str]) {
    let message = made(gguf).unwrap_err();
    for part in parts {
        assert!(message.contains(part), "`{message}` does not say `{part}`");
    }
}

/// Qwen's kind: biases of queries, keys and values, and none of the output, which is as one of zeros.
#[test]
fn biases_of_attention_count_one_by_one() {
    let tokens = Sequence::Tokens(vec![0, 1, 2, 3, 1, 0]);
    let outputs = |file: &GgufFile| stream(&File::new(&made(&file.bytes()).unwrap()).model(), kernels::detect(), &tokens, 64);
    let mut file = GgufFile::llama();
    let without = outputs(&file);
    for (name, len) in [("q", 8), ("k", 4), ("v", 4)] {
        file.add(&format!("blk.0.attn_{name}.bias"), &[len]);
    }
    let with = outputs(&file);
    assert_ne!(without, with);
    file.add("blk.0.attn_output.bias", &[8]);
    file.tensor("blk.0.attn_output.bias").data.fill(0);
    assert_eq!(outputs(&file), with);
}

/// A tensor that its architecture may have and this model's family does not ask for would be part of the model and not of its answers.
#[test]
fn tensors_without_a_place_in_the_model_are_refused() {
    for (name, len) in [("attn_norm.bias", 8), ("ffn_gate.bias", 12), ("ffn_down.bias", 8), ("attn_q_norm.weight", 4), ("attn_v.bias", 4)] {
        let mut file = GgufFile::llama();
        let name = format!("blk.0.{name}");
        file.add(&name, &[len]);
        refused(&file.bytes(), &[&name, "no place in the model"]);
    }
    let mut file = GgufFile::llama();
    file.add("token_embd_norm.weight", &[8]);
    refused(&file.bytes(), &["output_norm.weight", "place of another tensor"]);
}

/// As llama.cpp has it: a factor alone is linear, older files have another key, and 0 is none.
#[test]
fn factors_of_positions_need_no_type() {
    let file = |change: &dyn Fn(&mut GgufFile)| {
        let mut file = GgufFile::llama();
        change(&mut file);
        made(&file.bytes()).unwrap()
    };
    let plain = file(&|_| {});
    let linear = file(&|f| {
        f.text("llama.rope.scaling.type", "linear");
        f.number("llama.rope.scaling.factor", 4.0);
    });
    assert_ne!(plain, linear);
    assert_eq!(linear, file(&|f| f.number("llama.rope.scaling.factor", 4.0)));
    assert_eq!(linear, file(&|f| f.number("llama.rope.scale_linear", 4.0)));
    assert_eq!(plain, file(&|f| f.number("llama.rope.scaling.factor", 0.0)));
    assert_eq!(plain, file(&|f| f.forget("llama.rope.freq_base")));
    let none = file(&|f| {
        f.text("llama.rope.scaling.type", "none");
        f.number("llama.rope.scaling.factor", 4.0);
    });
    assert_eq!(plain, none);
}

/// A fixture with other bytes of as many under metadata keys; a key that is another one is forgotten.
fn fixture(name: &str, edits: &[(&str, &[u8])], forgotten: &[&str]) -> Vec<u8> {
    let mut bytes = std::fs::read(fixtures().join(format!("gguf/{name}.gguf"))).unwrap();
    let end_of = |bytes: &[u8], key: &str| {
        let at = bytes.windows(key.len()).position(|w| w == key.as_bytes());
        at.unwrap_or_else(|| panic!("no {key} in {name}")) + key.len()
    };
    for (key, value) in edits {
        // Behind the key stands the value's type.
        let at = end_of(&bytes, key) + 4;
        bytes[at..at + value.len()].copy_from_slice(value);
    }
    for key in forgotten {
        let at = end_of(&bytes, key);
        bytes[at - 1] = b'_';
    }
    bytes
}

/// The same with one more whole number. What is added has a multiple of 32 bytes: the data must stay aligned.
fn with_whole(mut bytes: Vec<u8>, key: &str, value: u32) -> Vec<u8> {
    let entry =
        |key: &str, kind: u32, value: &[u8]| [&(key.len() as u64).to_le_bytes(), key.as_bytes(), &kind.to_le_bytes(), value].concat();
    let mut added = entry(key, 4, &value.to_le_bytes());
    let filler = "x".repeat(31 - (added.len() + 21 + 31) % 32);
    added.extend(entry("x", 8, &[&(filler.len() as u64).to_le_bytes(), filler.as_bytes()].concat()));
    assert!(added.len().is_multiple_of(32));
    let count = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) + 2;
    bytes.splice(16..24, [&count.to_le_bytes()[..], &added].concat());
    bytes
}

/// What the file says and the family cannot do is refused; what it does not say is llama.cpp's default, not the family's.
#[test]
fn metadata_counts_as_llama_cpp_reads_it() {
    for (name, architecture) in [("lfm2", "lfm2"), ("lfm2-moe", "lfm2moe"), ("falcon-h1-plain", "falcon-h1")] {
        let key = format!("{architecture}.rope.dimension_count");
        refused(&with_whole(fixture(name, &[], &[]), &key, 4), &[&key, "only whole heads"]);
        let key = format!("{architecture}.rope.freq_base");
        let base = 10_000f32.to_le_bytes();
        assert_eq!(made(&fixture(name, &[(&key, &base)], &[])).unwrap(), made(&fixture(name, &[], &[&key])).unwrap(), "{name}");
    }
    let key = "lfm2moe.expert_gating_func";
    refused(&fixture("lfm2-moe", &[(key, &1u32.to_le_bytes())], &[]), &[key, "sigmoid"]);
    let key = "nemotron_h_moe.expert_weights_scale";
    let [none, one] = [0f32, 1.0].map(|factor| made(&fixture("nemotron-moe", &[(key, &factor.to_le_bytes())], &[])).unwrap());
    assert_eq!(none, one);
}

/// What ends a turn ends a text too; where another token does already, it is told.
#[test]
fn ends_of_turns_are_ends() {
    let ends = |change: &dyn Fn(&mut GgufFile)| {
        let (mut file, dir) = (GgufFile::llama(), tempfile::tempdir().unwrap());
        file.whole("tokenizer.ggml.eot_token_id", 2);
        change(&mut file);
        std::fs::write(dir.path().join("model.gguf"), file.bytes()).unwrap();
        let checkpoint = Checkpoint::open(dir.path().join("model.gguf")).unwrap();
        let Input::Tokens { eos, .. } = families::build(&checkpoint).unwrap().input else { panic!("no tokens") };
        (eos, checkpoint.notes().unwrap())
    };
    let (end, notes) = ends(&|_| {});
    assert_eq!(end, Some(3));
    assert!(notes.len() == 1 && notes[0].ends_with(": 2"), "{notes:?}");
    assert_eq!(ends(&|f| f.forget("tokenizer.ggml.eos_token_id")), (Some(2), vec![]));
    assert_eq!(ends(&|f| f.whole("tokenizer.ggml.eot_token_id", 3)), (Some(3), vec![]));
    assert_eq!(ends(&|f| f.whole("tokenizer.ggml.eot_token_id", 4000)), (Some(3), vec![]));
}
