//! Configs that leave keys out, spell them as other versions do, or say something else than the file: the model is the one that transformers
//! would load, or there is an error.

use brooklet_quantize::graph::Input;
use brooklet_quantize::{Checkpoint, Recipe, quantize};
use brooklet_tests::fixtures;
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

/// The file made of the checkpoint in `dir`.
fn file(dir: &Path) -> Result<Vec<u8>, String> {
    let out = tempfile::tempdir().unwrap();
    // The file holds what the checkpoint is called.
    let (copy, path) = (out.path().join("model"), out.path().join("model.brook"));
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let checkpoint = Checkpoint::open(&copy).map_err(|e| e.to_string())?;
    quantize(&checkpoint, &Recipe::default(), &path, &mut |_| {}).map_err(|e| e.to_string())?;
    Ok(std::fs::read(path).unwrap())
}

/// The files of fixture `name` with two changes of its config.
fn files(name: &str, changes: [&dyn Fn(&mut serde_json::Map<String, Value>); 2]) -> [Result<Vec<u8>, String>; 2] {
    changes.map(|change| file(beside(name, change, &[]).path()))
}

/// Keys left out are the reference's defaults.
#[test]
fn missing_keys_are_the_references_defaults() {
    let cases: &[(&str, &[(&str, Value)])] = &[
        (
            "mamba-a",
            &[("state_size", json!(16)), ("conv_kernel", json!(4)), ("layer_norm_epsilon", json!(1e-5)), ("use_conv_bias", json!(true))],
        ),
        ("granite-moe", &[("num_experts_per_tok", json!(2)), ("mamba_d_conv", json!(4)), ("mamba_n_groups", json!(1))]),
        ("nemotron-moe", &[("num_experts_per_tok", json!(2)), ("conv_kernel", json!(4)), ("norm_topk_prob", json!(true))]),
        ("jamba-moe", &[("num_experts_per_tok", json!(2)), ("mamba_d_conv", json!(4)), ("mamba_expand", json!(2))]),
        ("qwen3-5-moe", &[("linear_conv_kernel_dim", json!(4))]),
        ("zamba2-one-block", &[("num_mem_blocks", json!(1)), ("mamba_expand", json!(2)), ("mamba_d_conv", json!(4))]),
    ];
    for (name, keys) in cases {
        let [said, left_out] = files(
            name,
            [&|config| keys.iter().for_each(|(key, value)| drop(config.insert((*key).to_owned(), value.clone()))), &|config| {
                keys.iter().for_each(|(key, _)| drop(config.remove(*key)))
            }],
        );
        assert_eq!(said.unwrap(), left_out.unwrap(), "{name}");
    }
}

/// Null is no default: where the reference asks whether, it is false; and it overwrites what newer configs put elsewhere.
#[test]
fn keys_count_as_the_reference_reads_them() {
    type Change<'c> = &'c dyn Fn(&mut serde_json::Map<String, Value>);
    let set = |key: &'static str, value: Value| {
        move |config: &mut serde_json::Map<String, Value>| drop(config.insert(key.to_owned(), value.clone()))
    };
    let renamed = |from: &'static str, to: &'static str| {
        move |config: &mut serde_json::Map<String, Value>| {
            let value = config.remove(from).unwrap();
            config.insert(to.to_owned(), value);
        }
    };
    let cases: [(&str, Change<'_>, Change<'_>); 5] = [
        ("falcon-h1-norm-after", &set("mamba_norm_before_gate", json!(null)), &set("mamba_norm_before_gate", json!(false))),
        ("granite-rope", &set("mamba_conv_bias", json!(null)), &set("mamba_conv_bias", json!(false))),
        ("bamba", &set("partial_rotary_factor", json!(0.25)), &|_| {}),
        ("granite-rope", &renamed("layer_types", "layers_block_type"), &|_| {}),
        ("jamba-moe", &renamed("num_experts", "num_local_experts"), &|_| {}),
    ];
    for (name, one, other) in cases {
        let [one, other] = files(name, [one, other]);
        assert_eq!(one, other, "{name}");
    }
    // Null is a multiple of the width, a key that is left out 1024 channels.
    let left_out = |config: &mut serde_json::Map<String, Value>| drop(config.remove("mamba_d_ssm"));
    let [left_out, said] = files("falcon-h1-plain", [&left_out, &set("mamba_d_ssm", json!(1024))]);
    assert_eq!(left_out.unwrap_err().split_once("config.json").unwrap().1, said.unwrap_err().split_once("config.json").unwrap().1);
}

/// The reference's default is another number than the file's: refused, instead of read as if there were none.
#[test]
fn defaults_that_the_file_contradicts_are_refused() {
    let [experts, heads] = [("granite-moe", "num_local_experts"), ("lfm2", "num_key_value_heads")].map(|(name, key)| {
        let [refused, _] = files(name, [&|config| drop(config.remove(key)), &|_| {}]);
        refused.unwrap_err()
    });
    assert!(experts.contains("router.layer.weight") && experts.contains("do not belong together"), "{experts}");
    assert!(heads.contains("num_key_value_heads") && heads.contains("cannot share 8"), "{heads}");
}

/// A head of its own counts, whatever the config says; transformers decides so too.
#[test]
fn a_head_that_differs_from_the_embedding_is_not_tied() {
    for name in ["nemotron-moe", "mamba-untied-bias", "falcon-h1-plain", "jamba-moe"] {
        let tied =
            |tied: bool| move |config: &mut serde_json::Map<String, Value>| drop(config.insert("tie_word_embeddings".into(), json!(tied)));
        let [said, contradicted] = files(name, [&tied(false), &tied(true)]);
        assert_eq!(said.unwrap(), contradicted.unwrap(), "{name}");
    }
}

/// Positions of the training may stand beside the other keys or one level up, or be those that the model is for now.
#[test]
fn positions_of_the_training_are_found() {
    let key = "original_max_position_embeddings";
    let trained = |config: &mut serde_json::Map<String, Value>| config["rope_scaling"].as_object_mut().unwrap().remove(key).unwrap();
    for name in ["llama-yarn", "llama-rope3"] {
        let [beside, above] = files(
            name,
            [&|_| {}, &|config| {
                let positions = trained(config);
                config.insert(key.to_owned(), positions);
            }],
        );
        let [_, now] = files(
            name,
            [&|_| {}, &|config| {
                let positions = trained(config);
                config.insert("max_position_embeddings".to_owned(), positions);
            }],
        );
        assert_eq!(beside, above, "{name}");
        assert_eq!(beside, now, "{name}");
    }
}

/// What a config hides is told: here the biases of attention.
#[test]
fn tensors_without_a_place_in_the_model_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let from = fixtures().join("families/granite-rope");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(from.join(name), dir.path().join(name)).unwrap();
    }
    let left = || {
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        brooklet_quantize::families::build(&checkpoint).unwrap();
        checkpoint.left_behind().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(left().is_empty());
    let config = std::fs::read_to_string(dir.path().join("config.json")).unwrap();
    std::fs::write(dir.path().join("config.json"), config.replace("\"attention_bias\": true", "\"attention_bias\": false")).unwrap();
    let left = left();
    assert_eq!(left.len(), 8, "{left:?}");
    assert!(left.iter().all(|name| name.contains("self_attn") && name.ends_with(".bias")), "{left:?}");
}

/// No fixture holds a tensor without a place: each of them matters.
#[test]
fn fixtures_are_read_whole() {
    for dir in brooklet_tests::family_fixtures() {
        let checkpoint = Checkpoint::open(&dir).unwrap();
        brooklet_quantize::families::build(&checkpoint).unwrap();
        assert!(checkpoint.left_behind().is_empty(), "{}: {:?}", dir.display(), checkpoint.left_behind());
    }
}

/// Beside `model.safetensors` other files may lie: an index of older shards, the same weights under other names.
#[test]
fn the_whole_model_in_one_file_comes_first() {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixtures().join("families/mamba-a")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let alone = file(dir.path()).unwrap();
    std::fs::copy(dir.path().join("model.safetensors"), dir.path().join("consolidated.safetensors")).unwrap();
    std::fs::write(dir.path().join("model.safetensors.index.json"), r#"{"weight_map": {"x": "model-00001-of-00002.safetensors"}}"#)
        .unwrap();
    assert_eq!(alone, file(dir.path()).unwrap());
}

/// A fixture with a changed config and more files beside it.
fn beside(name: &str, change: &dyn Fn(&mut serde_json::Map<String, Value>), more: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixtures().join("families").join(name)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let path = dir.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(config.as_object_mut().unwrap());
    std::fs::write(path, config.to_string()).unwrap();
    more.iter().for_each(|(name, text)| std::fs::write(dir.path().join(name), text).unwrap());
    dir
}

/// Which tokens begin and end a text, and what is noted.
fn ends(dir: &Path) -> ([Option<u32>; 2], Vec<String>) {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let Input::Tokens { bos, eos, .. } = brooklet_quantize::families::build(&checkpoint).unwrap().input else { panic!("no tokens") };
    ([bos, eos], checkpoint.notes().unwrap())
}

/// Configs write a number below 0 or an empty list where there is no token, and lists where there are several, of which a file has one.
#[test]
fn ends_of_texts_are_found_and_those_left_out_are_told() {
    let set = |value: Value| {
        move |config: &mut serde_json::Map<String, Value>| {
            config.insert("bos_token_id".to_owned(), value.clone());
            config.insert("eos_token_id".to_owned(), value.clone());
        }
    };
    let generation = "generation_config.json";
    for none in [json!(null), json!(-1), json!([]), json!([-1])] {
        assert_eq!(ends(beside("llama-tied", &set(none.clone()), &[]).path()), ([None; 2], vec![]), "{none}");
        let dir = beside("llama-tied", &set(none), &[(generation, r#"{"eos_token_id": [1000000, 6, 5]}"#)]);
        let (found, notes) = ends(dir.path());
        assert_eq!(found, [None, Some(6)]);
        assert!(notes.len() == 1 && notes[0].starts_with("token 6 ends a text") && notes[0].ends_with(": 5"), "{notes:?}");
    }
    for (config, beside_it, others) in [
        (json!([5, 7]), "{}", ": 7"),
        (json!(5), r#"{"eos_token_id": [6, 5, 9]}"#, ": 6, 9"),
        (json!([5, 7]), r#"{"eos_token_id": 6}"#, ": 6, 7"),
    ] {
        let (found, notes) = ends(beside("llama-tied", &set(config), &[(generation, beside_it)]).path());
        assert_eq!(found, [Some(5); 2]);
        assert!(notes.len() == 1 && notes[0].ends_with(others), "{notes:?}");
    }
    let (found, notes) = ends(beside("llama-tied", &set(json!(5)), &[(generation, r#"{"eos_token_id": 5}"#)]).path());
    assert_eq!((found, notes.len()), ([Some(5); 2], 0));
    let (found, notes) = ends(beside("llama-tied", &set(json!(5)), &[(generation, "{")]).path());
    assert_eq!(found, [Some(5); 2]);
    assert!(notes.len() == 1 && notes[0].contains(generation), "{notes:?}");
}

/// What lies beside a model and is not read is told; a byte-order mark is no part of a config.
#[test]
fn what_is_not_read_is_told() {
    let open = |more: &[(&str, &str)]| {
        let dir = beside("llama-tied", &|_| {}, more);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        (checkpoint.unread_tokenizer().map(str::to_owned), checkpoint.notes().unwrap())
    };
    assert_eq!(open(&[]), (None, vec![]));
    assert_eq!(open(&[("tokenizer.json", "{}"), ("vocab.json", "{}")]).0, None);
    for name in ["tokenizer.model", "vocab.json"] {
        assert!(open(&[(name, "{}")]).0.unwrap().contains(name));
    }
    let (_, notes) = open(&[("adapter_config.json", "{}")]);
    assert!(notes.len() == 1 && notes[0].contains("adapters are not merged"), "{notes:?}");
    let dir = beside("llama-tied", &|_| {}, &[]);
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(dir.path().join("missing"), dir.path().join("tokenizer.json")).unwrap();
        assert!(Checkpoint::open(dir.path()).unwrap().unread_tokenizer().unwrap().contains("is a link"));
        std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    }
    let plain = file(dir.path()).unwrap();
    let config = dir.path().join("config.json");
    let text = std::fs::read(&config).unwrap();
    std::fs::write(&config, [b"\xef\xbb\xbf", &text[..]].concat()).unwrap();
    assert_eq!(plain, file(dir.path()).unwrap());
}
