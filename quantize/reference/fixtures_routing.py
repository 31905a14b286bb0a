#!/usr/bin/env python3
"""Fixtures of Brooklet's own hybrids: any placement of mixers, Mixture-of-Depths blocks, switches between two mixers.

    fixtures_routing.py OUT_DIR [--seed N]

The reference is a float64 stream written from the equations in docs/hybrid-checkpoint.md (numpy, a token at a time). Each
fixture is a folder with config.json, model.safetensors, tokens.json and expected.npy, as make_fixtures.py makes them.
Scores near their threshold are refused: there, rounding alone would decide.
"""
import argparse
import json
import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

TOKENS = 64
D_MODEL, VOCAB = 20, 53
SHAPES = {
    "mamba": {"d_inner": 24, "d_state": 5, "d_conv": 3, "dt_rank": 3},
    "mamba2": {"heads": 3, "headdim": 7, "d_state": 9, "ngroups": 1, "d_conv": 4},
    "attention": {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "rope_theta": 700.0},
    "mlp": {"width": 28},
}
MAMBA_AND_MLP = ["mamba2", "mlp"]
FIXTURES = {
    "depths-threshold": ["mamba2", {"mixers": ["attention", "mlp"], "routed": "threshold"}, "mlp", {"mixers": ["mamba"], "routed": "threshold"}],
    "depths-predictor": ["mamba", {"mixers": ["mamba2", "mlp"], "routed": "predictor"}, {"mixers": ["attention"], "routed": "predictor"}],
    "switch": ["mlp", {"switch": ["attention", "mamba2"]}, "mamba", {"switch": ["mamba", "mlp"]}],
    # One 12-layer config, three placements of its attention.
    "placement-interleaved": ["mamba2", "mamba2", "mlp", "attention"] * 3,
    "placement-blocked": MAMBA_AND_MLP * 4 + ["mamba2", "attention", "attention", "attention"],
    "placement-m-a-m": MAMBA_AND_MLP * 2 + ["mamba2"] + ["attention"] * 3 + ["mamba2"] + ["mlp"] * 2 + ["mamba2"],
}


def silu(x):
    return x / (1 + np.exp(-x))


def softplus(x):
    return np.log1p(np.exp(x))


def rms_norm(x, weight):
    return x / np.sqrt(np.mean(x * x) + 1e-5) * weight


class Stream:
    """Weights by name and the state of every mixer by prefix."""

    def __init__(self, rng):
        self.rng, self.weights, self.state = rng, {}, {}

    def w(self, name, *shape, scale=None, low=None, high=None):
        if name not in self.weights:
            if low is not None:
                value = self.rng.uniform(low, high, shape)
            else:
                value = self.rng.normal(0, scale or 0.9 / np.sqrt(shape[-1]), shape)
            self.weights[name] = value.astype(np.float32)
        return self.weights[name].astype(np.float64)

    def conv(self, p, x, taps):
        """Causal depthwise convolution with SiLU; x (channels)."""
        window = self.state.setdefault(p + "conv", np.zeros((taps - 1, len(x))))
        full = np.vstack([window, x])  # (taps, channels)
        self.state[p + "conv"] = full[1:]
        weight = self.w(p + "conv1d.weight", len(x), 1, taps, scale=0.6)[:, 0]
        return silu(self.w(p + "conv1d.bias", len(x), scale=0.2) + (full * weight.T).sum(0))

    def mamba(self, p, x):
        s = SHAPES["mamba"]
        d, n, rank = s["d_inner"], s["d_state"], s["dt_rank"]
        u, z = np.split(self.w(p + "in_proj.weight", 2 * d, len(x)) @ x, 2)
        u = self.conv(p, u, s["d_conv"])
        dt, b, c = np.split(self.w(p + "x_proj.weight", rank + 2 * n, d) @ u, [rank, rank + n])
        dt = softplus(self.w(p + "dt_proj.weight", d, rank) @ dt + self.w(p + "dt_proj.bias", d, low=-4, high=-1))
        a = -np.exp(self.w(p + "A_log", d, n, low=-0.5, high=1.5))
        h = self.state.setdefault(p + "h", np.zeros((d, n)))
        h[:] = np.exp(dt[:, None] * a) * h + (dt * u)[:, None] * b
        y = h @ c + self.w(p + "D", d, low=0.5, high=1.5) * u
        return self.w(p + "out_proj.weight", len(x), d, scale=0.1) @ (y * silu(z))

    def mamba2(self, p, x):
        s = SHAPES["mamba2"]
        heads, dim, n = s["heads"], s["headdim"], s["d_state"]
        d = heads * dim
        z, xbc, dt = np.split(self.w(p + "in_proj.weight", 2 * d + 2 * n + heads, len(x)) @ x, [d, 2 * d + 2 * n])
        u, b, c = np.split(self.conv(p, xbc, s["d_conv"]), [d, d + n])
        u = u.reshape(heads, dim)
        dt = softplus(dt + self.w(p + "dt_bias", heads, low=-4, high=-1))
        a = -np.exp(self.w(p + "A_log", heads, low=-0.5, high=1.5))
        h = self.state.setdefault(p + "h", np.zeros((heads, dim, n)))
        h[:] = np.exp(dt * a)[:, None, None] * h + (dt[:, None] * u)[..., None] * b
        y = h @ c + self.w(p + "D", heads, low=0.5, high=1.5)[:, None] * u
        y = rms_norm(y.reshape(-1) * silu(z), self.w(p + "norm.weight", d, low=0.5, high=1.5))
        return self.w(p + "out_proj.weight", len(x), d, scale=0.1) @ y

    def attention(self, p, x, position):
        s = SHAPES["attention"]
        heads, kv, dim = s["num_attention_heads"], s["num_key_value_heads"], s["head_dim"]
        angle = position * s["rope_theta"] ** (-2 * np.arange(dim // 2) / dim)

        def rotate(v):  # (heads, dim)
            first, second = v[:, : dim // 2], v[:, dim // 2 :]
            return np.hstack([first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)])

        q = rotate((self.w(p + "q_proj.weight", heads * dim, len(x)) @ x).reshape(heads, dim))
        k = rotate((self.w(p + "k_proj.weight", kv * dim, len(x)) @ x).reshape(kv, dim))
        v = (self.w(p + "v_proj.weight", kv * dim, len(x)) @ x).reshape(kv, dim)
        cache = self.state.setdefault(p + "cache", [])
        cache.append((k, v))
        out = []
        for head in range(heads):
            keys = np.array([k[head * kv // heads] for k, _ in cache])
            values = np.array([v[head * kv // heads] for _, v in cache])
            score = keys @ q[head] / np.sqrt(dim)
            weight = np.exp(score - score.max())
            out.append(weight / weight.sum() @ values)
        return self.w(p + "o_proj.weight", len(x), heads * dim, scale=0.1) @ np.concatenate(out)

    def mlp(self, p, x):
        width = SHAPES["mlp"]["width"]
        hidden = silu(self.w(p + "gate_proj.weight", width, len(x)) @ x) * (self.w(p + "up_proj.weight", width, len(x)) @ x)
        return self.w(p + "down_proj.weight", len(x), width, scale=0.1) @ hidden

    def add(self, p, mixer, x, position):
        """x + mixer(norm(x))."""
        normed = rms_norm(x, self.w(p + "norm.weight", len(x), low=0.5, high=1.5))
        more = (position,) if mixer == "attention" else ()
        return x + getattr(self, mixer)(p + "mixer.", normed, *more)

    def decide(self, score):
        assert abs(score) > 1e-3, "a score too close to its threshold: take another seed"
        return score > 0

    def layer(self, p, layer, x, position):
        if isinstance(layer, str):
            return self.add(p + "0.", layer, x, position)
        if "switch" in layer:
            path = 0 if self.decide(self.w(p + "router.weight", 1, len(x), scale=0.5) @ x) else 1
            return self.add(f"{p}{path}.", layer["switch"][path], x, position)
        weight = score = self.w(p + "router.weight", 1, len(x), scale=0.5) @ x
        if layer["routed"] == "predictor":
            hidden = self.w(p + "predictor.0.weight", len(x) // 2, len(x)) @ x + self.w(p + "predictor.0.bias", len(x) // 2, scale=0.3)
            score = self.w(p + "predictor.2.weight", 1, len(x) // 2) @ silu(hidden) + self.w(p + "predictor.2.bias", 1, scale=0.1)
        if not self.decide(score[0]):
            return x
        y = x
        for j, mixer in enumerate(layer["mixers"]):
            y = self.add(f"{p}{j}.", mixer, y, position)
        return x + weight * (y - x)

    def step(self, layers, token, position):
        x = self.w("embed.weight", VOCAB, D_MODEL, scale=1.0)[token]
        for i, layer in enumerate(layers):
            x = self.layer(f"layers.{i}.", layer, x, position)
        return self.w("lm_head.weight", VOCAB, D_MODEL, scale=0.3) @ rms_norm(x, self.w("norm.weight", D_MODEL, low=0.5, high=1.5))


def make(name, folder, seed):
    layers = FIXTURES[name]
    for attempt in range(100):
        rng = np.random.default_rng([seed, zlib.crc32(name.encode()), attempt])
        stream, tokens = Stream(rng), rng.integers(0, VOCAB, TOKENS)
        try:
            logits = np.array([stream.step(layers, token, i) for i, token in enumerate(tokens)])
            break
        except AssertionError:
            continue
    folder.mkdir(parents=True, exist_ok=True)
    used = {m for layer in layers for m in ([layer] if isinstance(layer, str) else layer.get("mixers") or layer["switch"])}
    config = {"model_type": "brooklet_hybrid", "vocab_size": VOCAB, "d_model": D_MODEL, "norm_epsilon": 1e-5, "tie_word_embeddings": False,
              "layers": layers, **{m: SHAPES[m] for m in sorted(used)}}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "tokens.json").write_text(json.dumps({"tokens": tokens.tolist()}) + "\n")
    save_file(dict(sorted(stream.weights.items())), folder / "model.safetensors")
    np.save(folder / "expected.npy", logits.astype(np.float32))
    print(f"{name:24} largest logit {abs(logits).max():.2f}, {sum(f.stat().st_size for f in folder.iterdir())} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in FIXTURES:
        make(name, args.out_dir / name, args.seed)


if __name__ == "__main__":
    main()
