"""GGUF fixtures: family fixtures through llama.cpp's own converter, blocks of every type through its Python package, tokenizers.

    python make_gguf.py --llama-cpp PATH/TO/llama.cpp families tests/fixtures/gguf
    python make_gguf.py --llama-cpp PATH/TO/llama.cpp blocks tests/fixtures/gguf

Needs llama.cpp's source (with its gguf-py), torch, transformers. The converter knows no model without a tokenizer: its step for the
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-cpp", type=pathlib.Path, required=True)
    parser.add_argument("what", choices=["families", "blocks"])
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    sys.path[:0] = [str(args.llama_cpp), str(args.llama_cpp / "gguf-py")]
    logging.basicConfig(level=logging.ERROR)
    args.out.mkdir(parents=True, exist_ok=True)
    {"families": families, "blocks": blocks}[args.what](args.llama_cpp, args.out)


if __name__ == "__main__":
    main()
