#!/usr/bin/env python3
"""Trains a second hybrid to measure quantizers on: every layer runs attention and Mamba-2 side by side (falcon_h1).

    train_hybrid.py train --data DIR --out DIR --seconds 480   on a GPU; DIR holds train.txt.xz, heldout.txt, tokenizer.json
    train_hybrid.py check --checkpoint DIR --text heldout.txt  perplexity here and with transformers, and a few samples

Data, schedule and files are those of train_text.py; the model and its optimizer differ. All matrices are trained by AdamW,
as published checkpoints are: it leaves the outliers in weights and activations that a quantizer has to live with.
"""
import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import train_text as base
from train_text import Weight, linear, rms_norm

# Every multiplier differs from 1, so that a reader that drops one is wrong; embedding and head are separate tensors.
# d_ssm and the MLP are 768 wide: no power of two, as in most published shapes.
CONFIG = {
    "architectures": ["FalconH1ForCausalLM"], "model_type": "falcon_h1",
    "vocab_size": 8192, "hidden_size": 512, "intermediate_size": 768, "num_hidden_layers": 7, "hidden_act": "silu",
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "rope_theta": 500000.0,
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    "mamba_d_ssm": 768, "mamba_n_heads": 12, "mamba_d_head": 64, "mamba_d_state": 64, "mamba_n_groups": 1, "mamba_d_conv": 4,
    "mamba_expand": 2, "mamba_chunk_size": 128, "mamba_conv_bias": True, "mamba_proj_bias": False,
    "mamba_rms_norm": False, "mamba_norm_before_gate": False, "projectors_bias": False, "attention_bias": False, "mlp_bias": False,
    "embedding_multiplier": 4.0, "lm_head_multiplier": 0.25, "key_multiplier": 0.5,
    "attention_in_multiplier": 1.25, "attention_out_multiplier": 0.75, "ssm_in_multiplier": 1.5, "ssm_out_multiplier": 0.5,
    "ssm_multipliers": [0.5, 0.75, 0.5, 0.625, 0.875], "mlp_multipliers": [0.875, 0.625],
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "torch_dtype": "bfloat16", "dtype": "bfloat16",
}


class Mamba(base.Mamba):
    """Without the norm before the output projection: y * silu(z) goes into it as it is."""

    def __init__(self, k):
        super().__init__(k)
        del self.norm
        scale = torch.cat([torch.full((rows,), k["ssm_in_multiplier"] * m) for rows, m in zip(
            [self.inner, self.inner, self.state, self.state, self.heads], k["ssm_multipliers"])])
        self.register_buffer("row_scale", scale, persistent=False)    # of z, x, B, C, dt
        self.out_scale = k["ssm_out_multiplier"]
        with torch.no_grad():
            self.in_proj.weight /= scale[:, None]
            self.out_proj.weight /= self.out_scale

    def forward(self, x, chunk):
        b, t, _ = x.shape
        rows = linear(x, self.in_proj.weight) * self.row_scale.to(x.dtype)
        z, u, dt = rows.split([self.inner, self.inner + 2 * self.state, self.heads], -1)
        width = self.conv1d.weight.shape[-1]
        padded = F.pad(u, (0, 0, width - 1, 0))                       # (batch, seq + 3, channels)
        u = self.conv1d.bias + sum(padded[:, j:j + t] * self.conv1d.weight[:, 0, j] for j in range(width))
        u, B, C = F.silu(u).to(x.dtype).split([self.inner, self.state, self.state], -1)
        u = u.view(b, t, self.heads, self.head_dim)
        dt = F.softplus(dt.float() + self.dt_bias)                    # (batch, seq, heads)
        y = base.ssd(u, dt, -self.A_log.float().exp(), B, C, chunk) + u * self.D[:, None]
        y = y.reshape(b, t, self.inner).float() * F.silu(z.float())
        return linear(y.to(x.dtype), self.out_proj.weight) * self.out_scale


class Attention(nn.Module):
    def __init__(self, k):
        super().__init__()
        d, self.head_dim = k["hidden_size"], k["head_dim"]
        self.heads, self.kv_heads = k["num_attention_heads"], k["num_key_value_heads"]
        self.in_scale, self.out_scale, self.key_scale = (k["attention_in_multiplier"], k["attention_out_multiplier"], k["key_multiplier"])
        std, inner = 0.6 * d ** -0.5 / self.in_scale, self.heads * self.head_dim
        self.q_proj = Weight(inner, d, std=std)
        self.k_proj = Weight(self.kv_heads * self.head_dim, d, std=std / self.key_scale)
        self.v_proj = Weight(self.kv_heads * self.head_dim, d, std=std)
        self.o_proj = Weight(d, inner, std=0.3 * inner ** -0.5 / self.out_scale)
        self.theta = k["rope_theta"]

    def rotate(self, x):
        """Rotary positions, pairs (i, i + head_dim / 2). x (batch, heads, seq, head_dim)"""
        half = self.head_dim // 2
        frequency = self.theta ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
        angle = torch.arange(x.shape[2], device=x.device, dtype=torch.float32)[:, None] * frequency
        cos, sin = angle.cos(), angle.sin()                           # (seq, head_dim / 2)
        a, b = x.float().chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)

    def forward(self, x):
        b, t, _ = x.shape
        x = x * self.in_scale

        def split(weight, heads):                                     # (batch, heads, seq, head_dim)
            return linear(x, weight).view(b, t, heads, self.head_dim).transpose(1, 2)
        q, k, v = (self.rotate(split(self.q_proj.weight, self.heads)),
                   self.rotate(split(self.k_proj.weight, self.kv_heads) * self.key_scale), split(self.v_proj.weight, self.kv_heads))
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return linear(y.transpose(1, 2).reshape(b, t, -1), self.o_proj.weight) * self.out_scale


class FeedForward(nn.Module):
    def __init__(self, k):
        super().__init__()
        d, f = k["hidden_size"], k["intermediate_size"]
        self.gate_scale, self.down_scale = k["mlp_multipliers"]
        self.gate_proj = Weight(f, d, std=0.6 * d ** -0.5 / self.gate_scale)
        self.up_proj = Weight(f, d, std=0.6 * d ** -0.5)
        self.down_proj = Weight(d, f, std=0.3 * f ** -0.5 / self.down_scale)

    def forward(self, x):
        gate = F.silu(linear(x, self.gate_proj.weight) * self.gate_scale)
        return linear(gate * linear(x, self.up_proj.weight), self.down_proj.weight) * self.down_scale


class Layer(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.eps = k["rms_norm_eps"]
        self.input_layernorm = Weight(k["hidden_size"], value=1)
        self.pre_ff_layernorm = Weight(k["hidden_size"], value=1)
        self.mamba, self.self_attn, self.feed_forward = Mamba(k), Attention(k), FeedForward(k)

    def forward(self, x, chunk, dtype):
        """x: the residual stream (batch, seq, hidden), always f32"""
        h = rms_norm(x, self.input_layernorm.weight, self.eps, dtype)
        x = x + self.mamba(h, chunk).float() + self.self_attn(h).float()
        h = rms_norm(x, self.pre_ff_layernorm.weight, self.eps, dtype)
        return x + self.feed_forward(h).float()


class Hybrid(nn.Module):
    def __init__(self, k, chunk=64):
        super().__init__()
        self.k, self.chunk = k, chunk
        d = k["hidden_size"]
        self.model = nn.Module()
        self.model.embed_tokens = Weight(k["vocab_size"], d, std=0.5 / k["embedding_multiplier"])
        self.model.layers = nn.ModuleList(Layer(k) for _ in range(k["num_hidden_layers"]))
        self.model.final_layernorm = Weight(d, value=1)
        self.lm_head = Weight(k["vocab_size"], d, std=0.5 * d ** -0.5 / k["lm_head_multiplier"])

    def head(self, x, targets, dtype):
        """Per-token losses (batch, seq), or the logits (batch, seq, vocab) when there are no targets."""
        x = rms_norm(x, self.model.final_layernorm.weight, self.k["rms_norm_eps"], dtype)
        logits = linear(x, self.lm_head.weight).float() * self.k["lm_head_multiplier"]
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)

    def forward(self, ids, targets=None, dtype=torch.float32):
        length = ids.shape[1]
        ids = F.pad(ids, (0, -length % self.chunk))                   # causal: what follows the end changes nothing
        x = F.embedding(ids, self.model.embed_tokens.weight).float() * self.k["embedding_multiplier"]
        for layer in self.model.layers:
            x = layer(x, self.chunk, dtype)
        return self.head(x[:, :length], targets, dtype)


def make_optimizers(model, lr, embedding_lr, vector_lr, weight_decay):
    groups = {"tables": [], "matrices": [], "vectors": []}
    for name, p in model.named_parameters():
        table = name.endswith(("embed_tokens.weight", "lm_head.weight"))
        groups["tables" if table else "matrices" if p.ndim == 2 else "vectors"].append(p)
    adam = dict(betas=(0.9, 0.95), fused=True)
    return [torch.optim.AdamW(groups["matrices"], lr=lr, weight_decay=weight_decay, **adam),
            torch.optim.AdamW(groups["tables"], lr=embedding_lr, weight_decay=0.01, **adam),
            torch.optim.AdamW(groups["vectors"], lr=vector_lr, weight_decay=0, **adam)]


if __name__ == "__main__":
    base.main(__doc__, base.Program(Hybrid, CONFIG, make_optimizers), lr=3e-3, embedding_lr=4e-3, vector_lr=3e-3, shard_bytes=15_500_000)
