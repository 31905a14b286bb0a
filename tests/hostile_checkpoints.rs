//! Checkpoints made to break their readers: the known classes of defects of model parsers, as files, against both readers. Each is a clear
//! error or harmless; none panics, takes memory beyond its size, or leaves anything behind.
//!
//! The numbers are those of the list in each test's name: 1 counts that overflow, 2 dimensions, 3 lengths of texts, 4 lists, 5 sums of
//! sizes, 6 products of sizes, 7 padding, 8 alignment, 9 zeros, 10 types, 11 ends, 12 allocations, 13 overlaps, holes and doubles,
//! 14 vocabularies, 15 empty names, 16 empty tensors, 17 configs that lie, 18 short and unaligned files, 19 cross-references,
//! 20 scales, 21 other files, 24 code. Those of a running stream, 22 and 23, have their own tests (bad_input.rs, snapshots.rs).

use brooklet_quantize::{Checkpoint, Recipe, quantize};
use brooklet_tests::gguf_file::{GgufFile, GgufTensor, list, text, texts};
use std::path::Path;

/// More than any of these small files may take, beside a multiple of its own size.
const MOST_BYTES: u64 = 4 << 20;

/// Makes a model of the checkpoint in `path`: what it says, and that it takes no more memory than it may.
fn result(path: &Path, file_bytes: usize) -> Result<(), String> {
    let out = tempfile::tempdir().unwrap();
    let mut message = Ok(());
    let taken = allocation_counter::measure(|| {
        let made = Checkpoint::open(path).and_then(|c| {
            c.notes()?;
            quantize(&c, &Recipe::default(), &out.path().join("model.brook"), &mut |_| {})
        });
        message = made.map(|_| ()).map_err(|e| e.to_string());
    });
    if message.is_err() {
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0, "something was left behind");
    }
    let most = MOST_BYTES + 64 * file_bytes as u64;
    assert!(taken.bytes_max <= most, "{} bytes at once for a file of {file_bytes}: {message:?}", taken.bytes_max);
    message
}

/// The error of a GGUF file.
fn refused(what: &str, bytes: &[u8], parts: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    let message = result(&path, bytes.len()).expect_err(what);
    for part in ["model.gguf"].iter().chain(parts) {
        assert!(message.contains(part), "{what}: `{message}` does not say `{part}`");
    }
}

fn accepted(what: &str, bytes: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    if let Err(message) = result(&path, bytes.len()) {
        panic!("{what}: {message}");
    }
}

/// A change to a good file, and what the error says.
fn changed(base: fn() -> GgufFile, what: &str, change: impl FnOnce(&mut GgufFile), parts: &[&str]) {
    let mut file = base();
    change(&mut file);
    refused(what, &file.bytes(), parts);
}

fn llama(what: &str, change: impl FnOnce(&mut GgufFile), parts: &[&str]) {
    changed(GgufFile::llama, what, change, parts);
}

fn mamba2(what: &str, change: impl FnOnce(&mut GgufFile), parts: &[&str]) {
    changed(GgufFile::mamba2, what, change, parts);
}

#[test]
fn gguf_as_it_should_be() {
    accepted("llama", &GgufFile::llama().bytes());
    accepted("mamba2", &GgufFile::mamba2().bytes());
    let mut file = GgufFile::llama();
    file.version = 2;
    accepted("version 2", &file.bytes());
}

#[test]
fn gguf_1_2_3_4_counts_dimensions_texts_lists() {
    for count in [u64::MAX, 1 << 63, 1 << 61, 1 << 32, 1000] {
        llama("entries", |f| f.entry_count = Some(count), &[]);
        llama("tensors", |f| f.tensor_count = Some(count), &["number of tensors"]);
    }
    for count in [0, 5, 64, u32::MAX] {
        llama("dimensions", |f| f.tensor("output_norm.weight").dim_count = Some(count), &["output_norm.weight", "dimensions"]);
    }
    for len in [u64::MAX, u64::MAX - 7, 1 << 63, 1 << 40, 100_000] {
        let lie = [&len.to_le_bytes()[..], b"llama"].concat();
        llama("length of a text", |f| f.set("general.architecture", 8, lie), &["general.architecture", "cut short"]);
        llama("length of a list", |f| f.set("general.tags", 9, list(0, len, &[1, 2, 3])), &["general.tags", "room"]);
        llama("length of a list of texts", |f| f.set("tokenizer.ggml.tokens", 9, list(8, len, &text(b"a"))), &["tokenizer.ggml.tokens"]);
    }
    llama("no UTF-8", |f| f.set("general.name", 8, text(&[0xff, 0xfe])), &["general.name", "UTF-8"]);
    llama("a list of lists", |f| f.set("general.tags", 9, list(9, 1, &list(4, 1, &[0; 4]))), &["general.tags", "list of lists"]);
    llama("tokens that are numbers", |f| f.set("tokenizer.ggml.tokens", 9, list(0, 4, &[1; 4])), &["tokens", "not a list of texts"]);
    llama("types that are texts", |f| f.set("tokenizer.ggml.token_type", 9, texts(&["1", "1", "1", "3"])), &["token_type", "numbers"]);
    llama("merges that are a text", |f| f.text("tokenizer.ggml.merges", "a b"), &["merges", "not a list of texts"]);
    llama("a flag of 7", |f| f.set("llama.attention.causal", 7, vec![7]), &["llama.attention.causal", "7", "0 or 1"]);
}

#[test]
fn gguf_5_6_7_8_9_sizes_padding_alignment_zeros() {
    let huge = |f: &mut GgufFile, dims: &[u64]| f.tensor("output_norm.weight").dims = dims.to_vec();
    for dims in [[1 << 32, 1 << 32], [u64::MAX, 2], [u64::MAX, u64::MAX], [1 << 62, 1 << 62], [3, u64::MAX / 3], [1 << 60, 1]] {
        llama("product of sizes", |f| huge(f, &dims), &["output_norm.weight"]);
    }
    llama("an exabyte", |f| huge(f, &[1 << 40, 1 << 20]), &["output_norm.weight"]);
    let many = |f: &mut GgufFile| {
        for i in 0..20 {
            let name = format!("blk.0.huge{i}").into_bytes();
            f.tensors.push(GgufTensor { name, dim_count: None, dims: vec![1 << 58], kind: 0, offset: None, data: Vec::new() });
        }
    };
    llama("sum of sizes", many, &["blk.0.huge0"]);
    for offset in [u64::MAX, u64::MAX - 31, 1 << 63, 1 << 40, 1 << 20] {
        let offset = offset & !31;
        llama("padding", |f| f.tensor("output_norm.weight").offset = Some(offset), &["output_norm.weight"]);
    }
    llama("unaligned", |f| f.tensor("output_norm.weight").offset = Some(129), &["output_norm.weight", "alignment"]);
    for alignment in [0, 1, 3, 48, 1 << 31, u32::MAX] {
        llama("alignment", |f| f.whole("general.alignment", alignment), &["general.alignment", "power of two"]);
    }
    llama("alignment that is a text", |f| f.text("general.alignment", "32"), &["general.alignment"]);
    llama("alignment below 0", |f| f.set("general.alignment", 5, (-32i32).to_le_bytes().to_vec()), &["general.alignment", "-32"]);
    for dims in [&[0, 8][..], &[8, 0], &[0], &[0, 0, 0, 0], &[u64::MAX, 0]] {
        llama("zero", |f| huge(f, dims), &["output_norm.weight"]);
    }
}

#[test]
fn gguf_10_11_12_types_ends_allocations() {
    for kind in [u32::MAX, 0x8000_0000, 4, 5, 31, 36, 41, 1000] {
        llama("type of a tensor", |f| f.tensor("output_norm.weight").kind = kind, &["output_norm.weight", "type", "Q4_K"]);
    }
    llama("a type that is not read", |f| f.tensor("output_norm.weight").kind = 19, &["IQ1_S", "Q4_K"]);
    for kind in [13, 255, u32::MAX] {
        llama("type of a value", |f| f.set("general.name", kind, vec![0; 8]), &["general.name", "type"]);
        llama("type of items", |f| f.set("general.tags", 9, list(kind, 1, &[0; 8])), &["general.tags", "type"]);
    }
    llama("blocks across rows", |f| f.tensor("output_norm.weight").kind = 2, &["output_norm.weight", "Q4_0", "rows of 8"]);
    let good = GgufFile::llama().bytes();
    for len in (0..good.len() - 32).step_by(7) {
        refused("a file that ends early", &good[..len], &[]);
    }
    let mut tiny = GgufFile::new();
    tiny.text("general.architecture", "llama");
    tiny.whole("llama.block_count", u32::MAX);
    refused("layers without tensors", &tiny.bytes(), &["llama.block_count"]);
    for count in [2, 1 << 20, u32::MAX] {
        llama("layers", |f| f.whole("llama.block_count", count), &[]);
    }
    for key in ["embedding_length", "feed_forward_length", "attention.head_count", "attention.key_length", "rope.dimension_count"] {
        for size in [1 << 12, 1 << 24, u32::MAX] {
            llama("a size beyond the tensors", |f| f.whole(&format!("llama.{key}"), size), &[]);
        }
    }
    for key in ["embedding_length", "ssm.conv_kernel", "ssm.inner_size", "ssm.state_size", "ssm.time_step_rank", "ssm.group_count"] {
        for size in [1 << 12, 1 << 24, u32::MAX] {
            mamba2("a size beyond the tensors", |f| f.whole(&format!("mamba2.{key}"), size), &[]);
        }
    }
}

#[test]
fn gguf_13_15_16_19_overlaps_doubles_names_references() {
    llama("overlap", |f| f.tensor("output_norm.weight").offset = Some(0), &["within another tensor"]);
    llama("a hole", |f| f.tensor("blk.0.attn_norm.weight").data.resize(320, 0), &["belong to no tensor"]);
    llama("a tail", |f| f.tail = vec![b'P'; 1000], &["1000", "belong to nothing"]);
    llama("a key twice", |f| f.entries.push(f.entries[0].clone()), &["general.architecture", "twice"]);
    llama("a tensor twice", |f| f.tensors.push(f.tensors[0].clone()), &["token_embd.weight", "twice"]);
    llama("an empty key", |f| f.set("", 4, vec![0; 4]), &["metadata key", "0 bytes"]);
    llama("an empty name", |f| f.tensor("output_norm.weight").name = Vec::new(), &["name of a tensor", "0 bytes"]);
    llama("a long name", |f| f.tensor("output_norm.weight").name = vec![b'x'; 5000], &["name of a tensor", "5000"]);
    llama("a name with a line break", |f| f.tensor("output_norm.weight").name = b"a\nb".to_vec(), &["control characters"]);
    for name in ["blk.1.attn_q.weight", "blk.99999999999999999999.x", "blk.-1.x", "blk.0.other.weight", "v.patch"] {
        llama("a tensor of nothing", |f| f.add(name, &[8]), &[name, "no part of this architecture"]);
    }
    llama("a tensor that is missing", |f| f.tensors.retain(|t| t.name != b"blk.0.attn_v.weight"), &["v_proj.weight", "missing"]);
}

#[test]
fn gguf_14_vocabularies() {
    for id in [4, 1000, u32::MAX - 1] {
        llama("an end beyond the vocabulary", |f| f.whole("tokenizer.ggml.eos_token_id", id), &["eos_token_id", "4 tokens"]);
    }
    llama("an id below 0", |f| f.set("tokenizer.ggml.bos_token_id", 5, (-5i32).to_le_bytes().to_vec()), &["bos_token_id", "-5"]);
    llama("more tokens than rows", |f| f.set("tokenizer.ggml.tokens", 9, texts(&["a"; 5])), &["tokens", "5", "4 rows"]);
    llama("fewer types", |f| f.set("tokenizer.ggml.token_type", 9, list(5, 1, &[1, 0, 0, 0])), &["token_type", "1 types for 4"]);
    let types = |n: i32| list(5, 4, &[n; 4].map(i32::to_le_bytes).concat());
    llama("an unknown type", |f| f.set("tokenizer.ggml.token_type", 9, types(-1)), &["token_type", "-1"]);
    llama("a merge of one", |f| f.set("tokenizer.ggml.merges", 9, texts(&["a b", "ab"])), &["merges", "entry 1"]);
    llama("an empty merge", |f| f.set("tokenizer.ggml.merges", 9, texts(&[""])), &["merges", "entry 0"]);
    llama("no merges", |f| f.forget("tokenizer.ggml.merges"), &["merges", "missing", "tokenizer.json"]);
    llama("no tokens", |f| f.set("tokenizer.ggml.tokens", 9, texts(&[])), &["tokens", "0 tokens"]);
    llama(
        "an unknown way to split",
        |f| f.text("tokenizer.ggml.pre", "elvish"),
        &["tokenizer.ggml.pre", "elvish", "gpt-2", "tokenizer.json"],
    );
    llama("an unknown tokenizer", |f| f.text("tokenizer.ggml.model", "rwkv"), &["tokenizer.ggml.model", "rwkv", "gpt2"]);
    let sentence_piece = |f: &mut GgufFile| {
        f.text("tokenizer.ggml.model", "llama");
        f.set("tokenizer.ggml.scores", 9, list(6, 4, &[0.0f32, -1.0, -2.0, -3.0].map(f32::to_le_bytes).concat()));
        f.whole("tokenizer.ggml.bos_token_id", 0);
    };
    let scores = |values: &[f32]| list(6, values.len() as u64, &values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
    let mut file = GgufFile::llama();
    sentence_piece(&mut file);
    accepted("SentencePiece", &file.bytes());
    for (values, part) in [(&[0.0f32; 3][..], "3 scores for 4"), (&[0.0, f32::NAN, 0.0, 0.0], "no number for token 1")] {
        let change = |f: &mut GgufFile| {
            sentence_piece(f);
            f.set("tokenizer.ggml.scores", 9, scores(values));
        };
        llama("scores", change, &["scores", part]);
    }
    for token in ["<0x-1>", "<0xZZ>", "<0x", "<0x100>", "<0xFFFFFFFFFFFF>"] {
        let mut file = GgufFile::llama();
        sentence_piece(&mut file);
        file.set("tokenizer.ggml.tokens", 9, texts(&["a", token, "ab", "<s>"]));
        file.set("tokenizer.ggml.token_type", 9, list(5, 4, &[1i32, 6, 1, 3].map(i32::to_le_bytes).concat()));
        accepted("a byte that is none", &file.bytes());
    }
    let long = "x".repeat(100_000);
    let change = |f: &mut GgufFile| {
        sentence_piece(f);
        f.set("tokenizer.ggml.tokens", 9, texts(&["a", "b", &long, "<s>"]));
    };
    llama("a token without end", change, &["tokens", "token 2", "512 characters"]);
}

#[test]
fn gguf_17_20_configs_and_scales() {
    for (key, parts) in [
        ("block_count", &["llama.block_count", "no layers"][..]),
        ("embedding_length", &["llama.embedding_length", "is 0"]),
        ("feed_forward_length", &["llama.feed_forward_length", "is 0"]),
        ("attention.head_count", &["llama.attention.head_count", "is 0"]),
        ("attention.head_count_kv", &["llama.attention.head_count_kv", "is 0"]),
    ] {
        llama("zero", |f| f.whole(&format!("llama.{key}"), 0), parts);
        llama("a text", |f| f.text(&format!("llama.{key}"), "many"), &[&format!("llama.{key}")]);
        llama("nothing", |f| f.forget(&format!("llama.{key}")), &[]);
    }
    llama("heads that share nothing", |f| f.whole("llama.attention.head_count_kv", 3), &["attn_k.weight", "3 heads"]);
    llama("other widths", |f| f.whole("llama.feed_forward_length", 13), &["ffn_gate.weight", "[12, 8]", "[13, 8]", "metadata"]);
    llama("another architecture", |f| f.text("general.architecture", "gpt9"), &["general.architecture", "gpt9", "mamba2"]);
    llama("a part of a model", |f| f.whole("split.count", 2), &["split.count", "2 files", "00001-of-00002.gguf"]);
    llama("angles that are stretched", |f| f.text("llama.rope.scaling.type", "yarn"), &["llama.rope.scaling.type", "yarn", "linear"]);
    for base in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        llama("a base of angles", |f| f.number("llama.rope.freq_base", base), &["llama.rope.freq_base"]);
    }
    for (key, value) in
        [("ssm.group_count", 3), ("ssm.group_count", 0), ("ssm.time_step_rank", 3), ("ssm.time_step_rank", 0), ("ssm.inner_size", 17)]
    {
        mamba2("a lie", |f| f.whole(&format!("mamba2.{key}"), value), &["mamba2.ssm."]);
    }
    for eps in [f32::NAN, f32::INFINITY] {
        mamba2("epsilon", |f| f.number("mamba2.attention.layer_norm_rms_epsilon", eps), &["mamba2.attention.layer_norm_rms_epsilon"]);
    }
    for a in [0.0, 1.0, f32::NAN, f32::NEG_INFINITY] {
        let change = |f: &mut GgufFile| f.tensor("blk.0.ssm_a").data[4..8].copy_from_slice(&a.to_le_bytes());
        mamba2("a decay that grows", change, &["blk.0.ssm_a", "A_log", "element 1"]);
    }
    // A scale of a block: infinite, and no number. A scale of zero makes zeros, and tiny ones tiny numbers.
    let block = |scale: u16| {
        move |f: &mut GgufFile| {
            f.whole("llama.embedding_length", 32);
            f.tensors.retain(|t| t.name == b"token_embd.weight");
            let tensor = f.tensor("token_embd.weight");
            (tensor.dims, tensor.kind) = (vec![32, 4], 2);
            tensor.data = [&scale.to_le_bytes()[..], &[0x5a; 16]].concat().repeat(4);
        }
    };
    for scale in [0x7c00, 0xfc00, 0x7e00] {
        let mut file = GgufFile::llama();
        block(scale)(&mut file);
        for name in ["output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"] {
            file.add(name, &[32]);
        }
        for (name, dims) in [("attn_q", [32, 32]), ("attn_k", [32, 16]), ("attn_v", [32, 16]), ("attn_output", [32, 32])] {
            file.add(&format!("blk.0.{name}.weight"), &dims);
        }
        for (name, dims) in [("ffn_gate", [32, 12]), ("ffn_up", [32, 12]), ("ffn_down", [12, 32])] {
            file.add(&format!("blk.0.{name}.weight"), &dims);
        }
        refused("a scale", &file.bytes(), &["token_embd.weight", "element 0"]);
        let scaled = |file: &mut GgufFile, scale: u16| {
            file.tensor("token_embd.weight").data = [&scale.to_le_bytes()[..], &[0x5a; 16]].concat().repeat(4);
        };
        for fine in [0, 1] {
            scaled(&mut file, fine);
            accepted("a small scale", &file.bytes());
        }
    }
}

/// Writes a model's parts, opens the second, and makes a model of all.
fn result_of_parts(dir: &Path, parts: &[GgufFile]) -> Result<Vec<u8>, String> {
    for (number, part) in (1..).zip(parts) {
        std::fs::write(dir.join(format!("m-{number:05}-of-00003.gguf")), part.bytes()).unwrap();
    }
    let path = dir.join("m-00002-of-00003.gguf");
    result(&path, parts.iter().map(|part| part.bytes().len()).sum())?;
    let out = dir.join("model.brook");
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.name().as_deref(), Some("m"));
    quantize(&checkpoint, &Recipe::default(), &out, &mut |_| {}).unwrap();
    Ok(std::fs::read(out).unwrap())
}

#[test]
fn gguf_19_models_in_parts() {
    let whole = tempfile::tempdir().unwrap();
    let (path, out) = (whole.path().join("m.gguf"), whole.path().join("model.brook"));
    std::fs::write(&path, GgufFile::llama().bytes()).unwrap();
    quantize(&Checkpoint::open(&path).unwrap(), &Recipe::default(), &out, &mut |_| {}).unwrap();
    let dir = tempfile::tempdir().unwrap();
    assert!(result_of_parts(dir.path(), &GgufFile::llama().parts(3)).unwrap() == std::fs::read(out).unwrap());
    // A folder of one model's parts is that model; of a part too many it is not.
    assert_eq!(Checkpoint::open(dir.path()).unwrap().name().as_deref(), Some("m"));
    std::fs::copy(&path, dir.path().join("other.gguf")).unwrap();
    assert!(Checkpoint::open(dir.path()).unwrap_err().to_string().contains("4 .gguf files"));

    let refused = |what: &str, change: &dyn Fn(&mut Vec<GgufFile>), said: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let mut parts = GgufFile::llama().parts(3);
        change(&mut parts);
        let message = result_of_parts(dir.path(), &parts).expect_err(what);
        assert!(said.iter().all(|said| message.contains(said)), "{what}: {message}");
    };
    refused("two of three", &|parts| drop(parts.pop()), &["m-00003-of-00003.gguf"]);
    refused("the wrong order", &|parts| parts.swap(1, 2), &["m-00002-of-00003.gguf", "split.no", "must be 1"]);
    refused(
        "a part of four",
        &|parts| parts[2] = GgufFile::llama().parts(4)[2].clone(),
        &["m-00003-of-00003.gguf", "split.count", "must be 3"],
    );
    refused("four parts", &|parts| parts[0].whole("split.count", 4), &["split.count", "00001-of-00004"]);
    refused("a whole model behind", &|parts| parts[2] = GgufFile::llama(), &["m-00003-of-00003.gguf", "split.no"]);
    refused("a tensor twice", &|parts| parts[2].tensors[0] = parts[1].tensors[0].clone(), &["m-00003-of-00003.gguf", "earlier file"]);
    refused("a tensor less", &|parts| drop(parts[2].tensors.pop()), &["split.tensors.count", "is 11", "have 10"]);
    refused("a whole model in front", &|parts| parts[0] = GgufFile::llama(), &["m-00001-of-00003.gguf", "split.count", "m-00002"]);
    refused("too many", &|parts| parts[0].whole("split.count", 100_000), &["split.count"]);
}

#[test]
fn gguf_18_24_short_files_and_other_files() {
    for bytes in [
        &b""[..],
        b"GGUF",
        b"GGUF\x03\0\0\0",
        b"\x08\0\0\0TFL3",
        b"PK\x03\x04junkjunkjunkjunk",
        b"\x80\x04\x95pickle...........",
        &[0xff; 64],
    ] {
        refused("no GGUF", bytes, &[]);
    }
    for (version, part) in [(0, "is 0"), (1, "is 1"), (4, "is 4"), (3 << 24, "big-endian")] {
        llama("a version", |f| f.version = version, &[part]);
    }
    // Templates are programs; nothing reads them.
    let mut file = GgufFile::llama();
    file.text("tokenizer.chat_template", "{{ ''.__class__.__mro__[1].__subclasses__() }}");
    accepted("a template", &file.bytes());
}

/// A safetensors checkpoint with this header and data.
fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// The error of a checkpoint whose weights are `bytes`; it says the file's name.
fn weights_refused(what: &str, bytes: &[u8], parts: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(brooklet_tests::fixtures().join("families/mamba2-g2/config.json"), dir.path().join("config.json")).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    let message = result(dir.path(), bytes.len()).expect_err(what);
    for part in ["model.safetensors"].iter().chain(parts) {
        assert!(message.contains(part), "{what}: `{message}` does not say `{part}`");
    }
}

#[test]
fn safetensors_1_to_16_headers() {
    let entry = |name: &str, dtype: &str, shape: &str, offsets: &str| {
        format!("\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":{offsets}}}")
    };
    let one = |dtype: &str, shape: &str, offsets: &str| format!("{{{}}}", entry("a", dtype, shape, offsets));
    // 1, 3, 12, 18: the header's length.
    for len in [u64::MAX, u64::MAX - 7, 1 << 63, 1 << 40, 100_000_001, 99_999_999, 17] {
        weights_refused("length of the header", &[&len.to_le_bytes()[..], b"{\"a\":{}}"].concat(), &["header"]);
    }
    for bytes in [&b""[..], b"\x08\0\0\0TFL3", b"PK\x03\x04junkjunkjunk", b"\x80\x04\x95pickle..........."] {
        weights_refused("no safetensors", bytes, &["header"]);
    }
    // 2, 5, 6, 9, 16: shapes and sizes.
    for shape in [
        "[4294967296,4294967296]",
        "[18446744073709551615,2]",
        "[9223372036854775808]",
        "[0]",
        "[1,1,1,1,1,1,1,1,1,1,1,1]",
        "[]",
        "[18446744073709551616]",
        "[-1]",
        "[1.5]",
        "\"8\"",
    ] {
        weights_refused("a shape", &safetensors(&one("F32", shape, "[0,32]"), &[0; 32]), &["header"]);
    }
    weights_refused("2000 dimensions", &safetensors(&one("F32", &format!("[{}1]", "1,".repeat(2000)), "[0,8]"), &[0; 8]), &["header"]);
    let sum: Vec<String> = (0..9u128)
        .map(|i| {
            entry(
                &format!("t{i}"),
                "U8",
                &format!("[{}]", 1u128 << 61),
                &format!("[{},{}]", i << 61, ((i + 1) << 61).min(u128::from(u64::MAX))),
            )
        })
        .collect();
    weights_refused("a sum of sizes", &safetensors(&format!("{{{}}}", sum.join(",")), &[0; 8]), &["header"]);
    // 11, 13, 19: offsets.
    for offsets in ["[0,64]", "[8,40]", "[32,0]", "[0,31]", "[18446744073709551615,31]", "[0]", "[-8,24]"] {
        weights_refused("offsets", &safetensors(&one("F32", "[8]", offsets), &[0; 32]), &["header"]);
    }
    let two = |a: &str, b: &str| format!("{{{},{}}}", entry("a", "F32", "[4]", a), entry("b", "F32", "[4]", b));
    for (a, b) in [("[0,16]", "[0,16]"), ("[0,16]", "[8,24]"), ("[0,16]", "[24,40]")] {
        weights_refused("overlaps and holes", &safetensors(&two(a, b), &[0; 40]), &["header"]);
    }
    weights_refused("a tail", &safetensors(&one("F32", "[8]", "[0,32]"), &[0; 40]), &["header"]);
    let twice = format!("{{{},{}}}", entry("a", "F16", "[8]", "[0,16]"), entry("a", "BF16", "[8]", "[0,16]"));
    weights_refused("a name twice", &safetensors(&twice, &[0; 16]), &["tensor `a`", "twice"]);
    // 4, 10, 15: types and names.
    for dtype in ["F33", "", "f32", "Q4_0", "-1"] {
        weights_refused("a type", &safetensors(&one(dtype, "[8]", "[0,32]"), &[0; 32]), &["header"]);
    }
    weights_refused("a list", &safetensors("[1,2,3]", &[]), &["header"]);
    weights_refused("depth", &safetensors(&"[".repeat(100_000), &[]), &["header"]);
    let empty = format!("{{{}}}", entry("", "F32", "[8]", "[0,32]"));
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(brooklet_tests::fixtures().join("families/mamba2-g2/config.json"), dir.path().join("config.json")).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), safetensors(&empty, &[0; 32])).unwrap();
    assert!(result(dir.path(), 100).unwrap_err().contains("backbone.embeddings.weight"));
}

#[test]
fn safetensors_17_configs_that_lie() {
    for (fixture, keys) in [
        (
            "mamba2-g2",
            &["hidden_size", "num_heads", "head_dim", "state_size", "n_groups", "conv_kernel", "vocab_size", "num_hidden_layers"][..],
        ),
        ("mamba-a", &["hidden_size", "state_size", "conv_kernel", "time_step_rank", "vocab_size", "num_hidden_layers"]),
        (
            "falcon-h1-norm-after",
            &[
                "hidden_size",
                "mamba_d_ssm",
                "mamba_n_heads",
                "mamba_d_state",
                "mamba_n_groups",
                "num_attention_heads",
                "head_dim",
                "mamba_d_conv",
            ],
        ),
        (
            "llama-rope3",
            &["hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size", "num_hidden_layers"],
        ),
        ("jamba-moe", &["hidden_size", "mamba_expand", "mamba_d_state", "num_experts", "num_experts_per_tok", "intermediate_size"]),
        ("nemotron-latent", &["hidden_size", "mamba_num_heads", "mamba_head_dim", "n_routed_experts", "moe_latent_size", "head_dim"]),
        ("lfm2", &["hidden_size", "conv_L_cache", "num_attention_heads", "vocab_size", "num_hidden_layers"]),
        ("granite-moe", &["hidden_size", "mamba_n_heads", "mamba_d_state", "num_local_experts", "shared_intermediate_size"]),
        (
            "qwen3-next",
            &[
                "hidden_size",
                "num_attention_heads",
                "head_dim",
                "linear_num_value_heads",
                "linear_value_head_dim",
                "linear_key_head_dim",
                "linear_conv_kernel_dim",
                "num_hidden_layers",
            ],
        ),
        ("stripedhyena", &["hidden_size", "state_size", "num_layers", "short_filter_length", "inner_mlp_size"]),
        ("silero-small", &["num_samples", "context_size", "n_fft", "hidden_size"]),
    ] {
        let from = brooklet_tests::fixtures().join("families").join(fixture);
        let config: serde_json::Value = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
        let weights = from.join("model.safetensors");
        let file_bytes = std::fs::metadata(&weights).unwrap().len() as usize;
        for key in keys {
            for value in [
                serde_json::json!(0),
                serde_json::json!(1 << 16),
                serde_json::json!(1 << 24),
                serde_json::json!(-1),
                serde_json::json!("x"),
            ] {
                // No experts at all is a dense model, which this one can be taken for.
                if *key == "num_local_experts" && value == 0 {
                    continue;
                }
                let mut config = config.clone();
                config[*key] = value.clone();
                let dir = tempfile::tempdir().unwrap();
                std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
                std::fs::copy(&weights, dir.path().join("model.safetensors")).unwrap();
                let message = result(dir.path(), file_bytes).expect_err(&format!("{fixture}: {key} = {value}"));
                assert!(message.contains("config") || message.contains("is missing"), "{fixture}: {key} = {value}: {message}");
            }
        }
    }
}

/// The places of all whole numbers of a config; a window of attention is memory that the model has at work.
fn whole_numbers(config: &serde_json::Value, at: &str, found: &mut Vec<String>) {
    match config {
        serde_json::Value::Object(object) => {
            let windows = ["sliding_window", "attention_window_size"];
            let others = object.iter().filter(|(key, _)| !windows.contains(&key.as_str()));
            others.for_each(|(key, value)| whole_numbers(value, &format!("{at}/{key}"), found));
        }
        serde_json::Value::Array(list) => {
            list.iter().enumerate().take(2).for_each(|(i, value)| whole_numbers(value, &format!("{at}/{i}"), found));
        }
        value if value.is_u64() => found.push(at.to_owned()),
        _ => {}
    }
}

#[test]
fn safetensors_6_12_17_sizes_of_every_family() {
    // Two at a time where sizes are multiplied before a tensor is looked at.
    let in_pairs = ["qwen3-next", "qwen3-5-moe", "falcon-h1-norm-after", "zamba2-two-blocks", "native-attention", "stripedhyena"];
    for family in std::fs::read_dir(brooklet_tests::fixtures().join("families")).unwrap() {
        let from = family.unwrap().path();
        let name = from.file_name().unwrap().to_string_lossy().into_owned();
        let weights = from.join("model.safetensors");
        // One is in shards.
        let Ok(file) = std::fs::metadata(&weights) else { continue };
        // Another has Python's word for infinity.
        let Ok(config) = serde_json::from_slice::<serde_json::Value>(&std::fs::read(from.join("config.json")).unwrap()) else { continue };
        let mut places = Vec::new();
        whole_numbers(&config, "", &mut places);
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(&weights, dir.path().join("model.safetensors")).unwrap();
        for (i, first) in places.iter().enumerate() {
            let second = if in_pairs.contains(&name.as_str()) { &places[i..] } else { &places[i..=i] };
            for second in second {
                let mut config = config.clone();
                for place in [first, second] {
                    *config.pointer_mut(place).unwrap() = serde_json::json!(1 << 24);
                }
                std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
                // Many are keys that nothing reads: what counts is that none panics or takes more memory than it may.
                let _ = result(dir.path(), file.len() as usize);
            }
        }
    }
}

#[test]
fn safetensors_21_24_other_files() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(brooklet_tests::fixtures().join("families/mamba2-g2/config.json"), dir.path().join("config.json")).unwrap();
    for file in ["../a.safetensors", "/etc/passwd", "..", "a/b.safetensors", "a\\b", ""] {
        let index = serde_json::json!({ "weight_map": { "a": file } });
        std::fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
        let message = result(dir.path(), 100).unwrap_err();
        assert!(message.contains("plain file name"), "{file}: {message}");
    }
    std::fs::write(dir.path().join("model.safetensors.index.json"), "{\"weight_map\": [1, 2]}").unwrap();
    assert!(result(dir.path(), 100).unwrap_err().contains("weight_map"));
    std::fs::remove_file(dir.path().join("model.safetensors.index.json")).unwrap();
    std::fs::write(dir.path().join("pytorch_model.bin"), b"\x80\x04\x95pickle").unwrap();
    assert!(result(dir.path(), 100).unwrap_err().contains("convert pickled weights"));
}
