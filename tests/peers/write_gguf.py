#!/usr/bin/env python3
"""Random weights in the shapes that `brooklet bench --shape` knows, as a GGUF file for llama.cpp.

    write_gguf.py mamba-130m DIR/mamba-130m.f16.gguf
    write_gguf.py mamba2-2.7b DIR/mamba2-2.7b.Q4_0.gguf Q4_0

Drawn from the distributions of brooklet's own random checkpoints: matrices uniform with a variance of 1 / fan-in, decay rates of 1 to 16,
time steps of a thousandth to a tenth. So no value grows without bound and none becomes denormal. Matrices are f16, the rest f32; llama-quantize makes
the other types of it. Where speed alone matters, Q4_0 and Q4_K draw codes at once instead, in llama-quantize's choice of types: a tied embedding takes Q6_K,
and what a type's blocks do not divide stays f16. Needs numpy and gguf (gguf-py of llama.cpp's own tree, or PyPI's gguf).
"""

import sys

import gguf
import numpy as np

D_CONV = 4
LONG_CONTEXT = 1 << 20
F16_FILE = 1
# Numbers that llama.cpp gives files whose matrices are mostly of a type.
FILE_TYPES = {"f16": F16_FILE, "Q4_0": 2, "Q4_K": 14}


def random_blocks(random, kind, rows, cols, bound):
    """A matrix of a type as it lies in a file, (rows, bytes): codes of any value under scales that spread them from -bound to bound."""
    weights, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    blocks = random.integers(0, 256, (rows * cols // weights, size), dtype=np.uint8)
    half = lambda x: np.frombuffer(np.float16(x).tobytes(), np.uint8)
    if kind == "Q4_0":  # scale; 32 codes, less 8
        blocks[:, :2] = half(bound / 8)
    elif kind == "Q4_K":  # scale of the scales, scale of the minima; eight of each, here all 32, in 6 bits; 256 codes
        blocks[:, :2], blocks[:, 2:4] = half(bound / 7.5 / 32), half(bound / 32)
        blocks[:, 4:16] = [0xA0] * 8 + [0] * 4
    else:  # Q6_K: 256 codes, less 32; sixteen scales, here all 64; their scale
        blocks[:, 192:208] = 64
        blocks[:, 208:] = half(bound / 32 / 64)
    return blocks.reshape(rows, -1)


class Weights:
    """A GGUF file in the making."""

    def __init__(self, path, arch, *, vocab, context, d_model, layers, d_ff=0, heads=0, kv_heads=0, is_tied=True):
        path, self.kind = path
        self.file = gguf.GGUFWriter(path, arch)
        self.random = np.random.default_rng(1)
        self.d_model, self.d_ff, self.vocab = d_model, d_ff, vocab
        self.file.add_file_type(FILE_TYPES[self.kind])
        self.file.add_tokenizer_model("no_vocab")
        self.file.add_vocab_size(vocab)
        self.file.add_context_length(context)
        self.file.add_embedding_length(d_model)
        self.file.add_block_count(layers)
        self.file.add_feed_forward_length(d_ff)
        self.file.add_head_count(heads)
        self.file.add_head_count_kv(kv_heads)
        self.file.add_layer_norm_rms_eps(1e-5)
        self.matrix("token_embd.weight", vocab, d_model, is_output=is_tied)
        self.ones("output_norm.weight", d_model)

    def recurrence(self, *, d_inner, d_state, time_steps, groups=None):
        """`time_steps`: the rank of Mamba's time step, or the heads of Mamba-2."""
        self.file.add_ssm_conv_kernel(D_CONV)
        self.file.add_ssm_inner_size(d_inner)
        self.file.add_ssm_state_size(d_state)
        self.file.add_ssm_time_step_rank(time_steps)
        if groups is not None:
            self.file.add_ssm_group_count(groups)

    def rotary(self, width, base):
        self.file.add_rope_dimension_count(width)
        self.file.add_rope_freq_base(base)

    def f32(self, name, values):
        self.file.add_tensor(name, np.ascontiguousarray(values, dtype=np.float32))

    def uniform(self, *shape):
        """-0.5 to 0.5."""
        return self.random.random(shape, dtype=np.float32) - 0.5

    def matrix(self, name, rows, cols, is_output=False):
        bound = (3.0 / cols) ** 0.5
        kind = "Q6_K" if is_output and self.kind != "f16" else self.kind
        if kind != "f16" and cols % gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0] == 0:
            blocks = random_blocks(self.random, kind, rows, cols, bound)
            self.file.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType[kind])
            return
        self.file.add_tensor(name, (2 * bound * self.uniform(rows, cols)).astype(np.float16))

    def ones(self, name, *shape):
        self.f32(name, 1 + 0.1 * self.uniform(*shape))

    def bias(self, name, size):
        self.f32(name, 0.1 * self.uniform(size))

    def decay(self, name, *shape):
        self.f32(name, -8.5 - 15 * self.uniform(*shape))

    def time_step_bias(self, name, size):
        """What softplus takes to a thousandth to a tenth."""
        self.f32(name, np.log(np.expm1(1e-3 * 100.0 ** (self.uniform(size) + 0.5))))

    def conv(self, layer, channels):
        self.f32(layer + "ssm_conv1d.weight", (2 * (3.0 / D_CONV) ** 0.5) * self.uniform(channels, D_CONV))
        self.bias(layer + "ssm_conv1d.bias", channels)

    def mamba_mixer(self, layer, d_inner, d_state, rank):
        self.ones(layer + "attn_norm.weight", self.d_model)
        self.matrix(layer + "ssm_in.weight", 2 * d_inner, self.d_model)
        self.conv(layer, d_inner)
        self.matrix(layer + "ssm_x.weight", rank + 2 * d_state, d_inner)
        self.matrix(layer + "ssm_dt.weight", d_inner, rank)
        self.time_step_bias(layer + "ssm_dt.bias", d_inner)
        self.decay(layer + "ssm_a", d_inner, d_state)
        self.ones(layer + "ssm_d", d_inner)
        self.matrix(layer + "ssm_out.weight", self.d_model, d_inner)

    def mamba2_mixer(self, layer, d_inner, d_state, heads, has_norm=True):
        """One group."""
        channels = d_inner + 2 * d_state
        self.matrix(layer + "ssm_in.weight", d_inner + channels + heads, self.d_model)
        self.conv(layer, channels)
        self.time_step_bias(layer + "ssm_dt.bias", heads)
        self.decay(layer + "ssm_a", heads, 1)
        self.ones(layer + "ssm_d", heads, 1)
        if has_norm:
            self.ones(layer + "ssm_norm.weight", 1, d_inner)
        self.matrix(layer + "ssm_out.weight", self.d_model, d_inner)

    def attention(self, layer, heads, kv_heads, head_dim):
        self.matrix(layer + "attn_q.weight", heads * head_dim, self.d_model)
        self.matrix(layer + "attn_k.weight", kv_heads * head_dim, self.d_model)
        self.matrix(layer + "attn_v.weight", kv_heads * head_dim, self.d_model)
        self.matrix(layer + "attn_output.weight", self.d_model, heads * head_dim)

    def mlp(self, layer, norm="ffn_norm.weight"):
        self.ones(layer + norm, self.d_model)
        self.matrix(layer + "ffn_gate.weight", self.d_ff, self.d_model)
        self.matrix(layer + "ffn_up.weight", self.d_ff, self.d_model)
        self.matrix(layer + "ffn_down.weight", self.d_model, self.d_ff)

    def finish(self):
        self.file.write_header_to_file()
        self.file.write_kv_data_to_file()
        self.file.write_tensors_to_file()
        self.file.close()


def mamba(path, d_model, layers, vocab):
    d_inner, d_state, rank = 2 * d_model, 16, -(-d_model // 16)
    w = Weights(path, "mamba", vocab=vocab, context=LONG_CONTEXT, d_model=d_model, layers=layers)
    w.recurrence(d_inner=d_inner, d_state=d_state, time_steps=rank)
    for i in range(layers):
        w.mamba_mixer(f"blk.{i}.", d_inner, d_state, rank)
    return w


def mamba2(path, d_model, layers, vocab):
    d_inner, d_state = 2 * d_model, 128
    heads = d_inner // 64
    w = Weights(path, "mamba2", vocab=vocab, context=LONG_CONTEXT, d_model=d_model, layers=layers)
    w.recurrence(d_inner=d_inner, d_state=d_state, time_steps=heads, groups=1)
    for i in range(layers):
        w.ones(f"blk.{i}.attn_norm.weight", d_model)
        w.mamba2_mixer(f"blk.{i}.", d_inner, d_state, heads)
    return w


def granite(path, d_model, layers, attention_layers, head_dim, d_ff, residual, scale):
    """12 attention heads, 48 of `head_dim` in the state space."""
    kv_heads = [4 if i in attention_layers else 0 for i in range(layers)]
    w = Weights(path, "granitehybrid", vocab=100352, context=LONG_CONTEXT, d_model=d_model, layers=layers, d_ff=d_ff, heads=12, kv_heads=kv_heads)
    w.recurrence(d_inner=48 * head_dim, d_state=128, time_steps=48, groups=1)
    w.file.add_embedding_scale(12.0)
    w.file.add_residual_scale(residual)
    w.file.add_attention_scale(scale)
    w.file.add_logit_scale(3.0)
    # No rotary positions: llama.cpp takes this key for the switch.
    w.file.add_rope_scaling_finetuned(False)
    w.rotary(d_model // 12, 10000.0)
    for i in range(layers):
        layer = f"blk.{i}."
        w.ones(layer + "attn_norm.weight", d_model)
        if i in attention_layers:
            w.attention(layer, 12, 4, d_model // 12)
        else:
            w.mamba2_mixer(layer, 48 * head_dim, 128, 48)
        w.mlp(layer)
    return w


def falcon_h1(path):
    """The multipliers are folded into the weights, as llama.cpp's converter does: with random weights there is nothing to fold."""
    d_model, layers = 1024, 36
    w = Weights(path, "falcon-h1", vocab=32784, context=16384, d_model=d_model, layers=layers, d_ff=2048, heads=8, kv_heads=2, is_tied=False)
    w.recurrence(d_inner=1536, d_state=128, time_steps=24, groups=1)
    w.file.add_key_length(64)
    w.file.add_value_length(64)
    w.rotary(64, 1e11)
    w.matrix("output.weight", w.vocab, d_model, is_output=True)
    for i in range(layers):
        layer = f"blk.{i}."
        w.ones(layer + "attn_norm.weight", d_model)
        w.attention(layer, 8, 2, 64)
        w.mamba2_mixer(layer, 1536, 128, 24, has_norm=False)
        # llama.cpp reads this one without a suffix.
        w.mlp(layer, norm="ffn_norm")
    return w


def llama(path):
    d_model, layers = 576, 30
    w = Weights(path, "llama", vocab=49152, context=16384, d_model=d_model, layers=layers, d_ff=1536, heads=9, kv_heads=3)
    w.rotary(64, 10000.0)
    for i in range(layers):
        w.ones(f"blk.{i}.attn_norm.weight", d_model)
        w.attention(f"blk.{i}.", 9, 3, 64)
        w.mlp(f"blk.{i}.")
    return w


SHAPES = {
    "mamba-130m": lambda path: mamba(path, 768, 24, 50280),
    "mamba-1m": lambda path: mamba(path, 128, 8, 256),
    "mamba2-130m": lambda path: mamba2(path, 768, 24, 50288),
    "mamba2-2.7b": lambda path: mamba2(path, 2560, 64, 50288),
    "granite-4.0-h-350m": lambda path: granite(path, 768, 32, (10, 13, 17, 27), 32, 2048, 0.246, 0.015625),
    "granite-4.0-h-1b": lambda path: granite(path, 1536, 40, (5, 15, 25, 35), 64, 4096, 0.22, 0.0078125),
    "falcon-h1-0.5b": falcon_h1,
    "llama-130m": llama,
}

if __name__ == "__main__":
    name, path, kind = (sys.argv + ["f16"])[1:4] if len(sys.argv) in (3, 4) else ("", "", "")
    if name not in SHAPES or kind not in FILE_TYPES:
        sys.exit(f"usage: write_gguf.py SHAPE OUT.gguf [TYPE], where SHAPE is one of {', '.join(SHAPES)} and TYPE of {', '.join(FILE_TYPES)}")
    SHAPES[name]((path, kind)).finish()
