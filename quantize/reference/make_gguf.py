"""GGUF fixtures: family fixtures through llama.cpp's own converter, blocks of every type through its Python package, tokenizers.

    python make_gguf.py --llama-cpp PATH/TO/llama.cpp families tests/fixtures/gguf
    python make_gguf.py --llama-cpp PATH/TO/llama.cpp blocks tests/fixtures/gguf
    python make_gguf.py --llama-cpp PATH/TO/llama.cpp --llama-tokens llama_tokens tokens tests/fixtures/gguf

Needs llama.cpp's source (with its gguf-py), torch, transformers; for tokens the program of tests/peers/llama_tokens.cpp. The converter knows no model without a tokenizer: its step for the
vocabulary is left out. What it does not carry over, or asserts about sizes, is adapted in a copy of the config, as said below.
"""

import argparse
import json
import logging
import pathlib
import shutil
import sys
import tempfile

import numpy as np

FAMILIES = pathlib.Path(__file__).parents[2] / "tests/fixtures/families"

# Fixtures whose models the files can say in full. Those left out: projections' biases and odd expansions of Mamba, Granite with rotary
# positions, Falcon-H1 with the norm before the gate (llama.cpp has none of them).
NAMES = """mamba-a falcon-mamba mamba2-g1 mamba2-g2 mamba2-bias-k3 jamba-dense jamba-moe granite-nope granite-moe bamba
falcon-h1-norm-after falcon-h1-plain nemotron-dense nemotron-moe nemotron-latent lfm2 lfm2-moe llama-tied llama-rope3""".split()


def adapt(config):
    """What the converter needs to hear in other words."""
    # It knows the published spellings only.
    old = {"linear_attention": "mamba", "full_attention": "attention"}
    if config["model_type"] == "granitemoehybrid":
        config["layer_types"] = [old.get(kind, kind) for kind in config["layer_types"]]
        if config["hidden_size"] // config["num_attention_heads"] % 2:
            # It interleaves the rows of every head, which takes an even number of them: the same tensors as half as many heads.
            config["num_attention_heads"] //= 2
            config["num_key_value_heads"] //= 2
    if config["model_type"] == "nemotron_h":
        # It asserts that the inner width is a multiple of this, 64 if it is not there; the file does not say it.
        config["mamba_d_head"] = 1
        # Every new config speaks of experts, and the converter takes that for a mixture.
        pattern = config.get("hybrid_override_pattern") or ""
        if pattern and "E" not in pattern:
            config.pop("num_experts_per_tok", None)
    return config


def families(llama_cpp, out):
    import gguf
    import torch
    from conversion import get_model_class

    for name in NAMES:
        with tempfile.TemporaryDirectory() as copy:
            copy = pathlib.Path(copy)
            for file in (FAMILIES / name).iterdir():
                shutil.copyfile(file, copy / file.name)
            config = adapt(json.loads((copy / "config.json").read_text()))
            (copy / "config.json").write_text(json.dumps(config))
            model = get_model_class(config["architectures"][0])
            model.set_vocab = lambda self: self._set_vocab_none()
            # Else it asks transformers for the config, which adds experts to a dense Nemotron.
            given = {"hparams": config} if config["model_type"] == "nemotron_h" else {}
            with torch.inference_mode():
                model(copy, gguf.LlamaFileType.ALL_F32, out / f"{name}.gguf", **given).write()
            print(name)


def blocks(llama_cpp, out):
    """A tensor of every block type with random codes, and what the package makes of it: (types, rows * 512)."""
    import gguf

    rng = np.random.default_rng(5)
    kinds = "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS".split()
    # Where a block's half floats are: d, and m or dmin.
    halves = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2],
              "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0]}
    rows, cols = 2, 512
    writer = gguf.GGUFWriter(out / "blocks.gguf", "llama")
    expected = []
    for name in kinds:
        kind = gguf.GGMLQuantizationType[name]
        block_len, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        if name in halves:
            data = rng.integers(0, 256, (rows * cols // block_len, block_bytes), dtype=np.uint8)
            for at in halves[name]:
                scales = rng.normal(0, 0.01, len(data)).astype(np.float16)
                data[:, at:at + 2] = scales.view(np.uint8).reshape(-1, 2)
            data = data.reshape(rows, -1)
        else:
            data = gguf.quants.quantize(rng.normal(0, 1, (rows, cols)).astype(np.float32), kind)
        expected.append(gguf.quants.dequantize(data, kind).astype(np.float32).ravel())
        writer.add_tensor(f"blk.0.{name}", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    np.save(out / "blocks.npy", np.stack(expected))


TEXTS = [
    "The quick brown fox jumps over the lazy dog, and it's we'll they'VE I'd SHE'S.", "x=1;y=22;z=333;w=4444; 1,234,567.89 0x1F ½ ² ٣٤",
    "def f(x):\n\treturn {k: v**2 for k, v in x.items()}  # comment\n\n\n    if (a<=b && c!=d) { i++; }\n", "  leading and trailing  ",
    "a  b   c    d     e", "\n\n\n", " \n \t \r\n  x", "\u00a0nbsp\u2003em\u3000wide", "Grüße aus Köln, naïve café, ÉCOLE, Straße", "Привет, мир!",
    "你好，世界。", "日本語のテキスト", "हिन्दी", "🙂👍🏽👩‍👧 emoji", "e\u0301 combining a\u0308", "$100 €20 #tag ^caret `tick` …—–‘quoted’", "<s>x</s> <end>y",
    "CamelCaseAndSNAKE_CASE", "!" * 30, " " * 30, "A", " A", "",
]


def tokens(llama_cpp, out, llama_tokens):
    """Two small vocabularies, trained on this project's own pages, and llama.cpp's ids of some texts: by every way to split, and by scores."""
    import subprocess

    import gguf
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    pages = [p.read_text() for p in sorted((FAMILIES.parents[2] / "docs").glob("*.md"))]
    cases = {}

    def write(name, entries):
        writer = gguf.GGUFWriter(out / name, "llama")
        for key, value in [("block_count", 1), ("embedding_length", 2), ("feed_forward_length", 2), ("attention.head_count", 1), ("context_length", 64)]:
            writer.add_uint32(f"llama.{key}", value)
        writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        # Room for tests that write another text elsewhere: the data must stay where it is.
        writer.add_name("x" * 64)
        for key, value in entries.items():
            add = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, list: writer.add_array}[type(value)]
            add(f"tokenizer.ggml.{key}", value)
        ones = lambda *shape: np.ones(shape, np.float16)
        writer.add_tensor("token_embd.weight", ones(len(entries["tokens"]), 2))
        for part in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]:
            writer.add_tensor(f"blk.0.{part}.weight", ones(2, 2))
        for part in ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"]:
            writer.add_tensor(f"{part}.weight", np.ones(2, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def ids(file):
        run = subprocess.run([llama_tokens, file], input=b"".join(t.encode() + b"\0" for t in TEXTS), capture_output=True, check=True)
        return [[int(i) for i in line.split()] for line in run.stdout.decode().split("\n")[:len(TEXTS)]]

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(pages, trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"], show_progress=False))
    model = json.loads(trained.to_str())["model"]
    names = [token for token, _ in sorted(model["vocab"].items(), key=lambda entry: entry[1])] + ["<end>", "[PAD701]"]
    merges = [" ".join(merge) for merge in model["merges"]]
    entries = {"model": "gpt2", "pre": "gpt-2", "tokens": names, "token_type": [3, 3] + [1] * (len(names) - 4) + [4, 5], "merges": merges, "eos_token_id": 1}
    write("tokens-bpe.gguf", entries)
    # tekken and gpt-4o: llama.cpp's patterns for them are not the models' own.
    with tempfile.TemporaryDirectory() as folder:
        for pre in "gpt-2 smollm llama-bpe dbrx qwen2 qwen35 deepseek-v3 deepseek-coder falcon bloom viking default".split():
            write(pathlib.Path(folder) / "model.gguf", entries | {"pre": pre})
            cases[pre] = ids(pathlib.Path(folder) / "model.gguf")

    # Pieces of whole words with a mark for the space before them, and scores by their order, as SentencePiece's BPE has them.
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.decoder = decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    trained.train_from_iterator(pages, trainers.BpeTrainer(vocab_size=900, special_tokens=special, limit_alphabet=90, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    names = [token for token, _ in sorted(model["vocab"].items(), key=lambda entry: entry[1])]
    types = [2, 3, 3] + [6] * 256 + [1] * (len(names) - 259)
    entries = {"model": "llama", "tokens": names, "token_type": types, "scores": [float(-i) for i in range(len(names))], "bos_token_id": 1, "eos_token_id": 2}
    write("tokens-spm.gguf", entries)
    cases["llama"] = ids(out / "tokens-spm.gguf")
    (out / "tokens.json").write_text(json.dumps({"texts": TEXTS, "ids": cases}) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-cpp", type=pathlib.Path, required=True)
    parser.add_argument("--llama-tokens", type=pathlib.Path)
    parser.add_argument("what", choices=["families", "blocks", "tokens"])
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    sys.path[:0] = [str(args.llama_cpp), str(args.llama_cpp / "gguf-py")]
    logging.basicConfig(level=logging.ERROR)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.what == "tokens":
        tokens(args.llama_cpp, args.out, args.llama_tokens)
    else:
        {"families": families, "blocks": blocks}[args.what](args.llama_cpp, args.out)


if __name__ == "__main__":
    main()
