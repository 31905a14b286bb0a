"""Makes the fixtures of the time-invariant state-space models: S4D, S5, StripedHyena, frames at irregular times, missing samples.

References in f64, written from the published equations: once over the whole input (sums over the past, which for S4D under an
input that stays between frames is the exact solution of the differential equation), once as a stream. Both must agree.
"""

import argparse
import json
import math
import sys
import zlib
from pathlib import Path

import numpy as np

from fixtures_draw import draw, weakest_tensor
from fixtures_sensor import SensorReference, conv_whole, rms_norm, sensor, sensor_config, sensor_shapes, silu, states_whole

CACHE_BOUND, SHUFFLE_BOUND = 1e-9, 1e-4


def lti(d_model, n_layer, channels, pooling, layer, *, rms=True, gaps=False, missing=None, **ssm_cfg):
    spec = sensor(d_model, n_layer, channels, pooling, layer=layer, **ssm_cfg)
    return spec | dict(rms=rms, gaps=gaps, missing=missing)


SENSOR = {
    "sensor-s4d-zoh": lti(24, 2, 6, "last", "S4D", d_state=16, discretization="zoh"),
    "sensor-s4d-bilinear": lti(18, 2, 3, "mean", "S4D", d_state=10, discretization="bilinear", rms=False),
    "sensor-s4d-irregular": lti(20, 2, 3, "ema", "S4D", d_state=12, discretization="zoh", irregular=True, rms=False, gaps=True),
    "sensor-s4d-irregular-bilinear": lti(
        17, 1, 3, "last", "S4D", d_state=8, discretization="bilinear", irregular=True, gaps=True),
    "sensor-s4d-irregular-even": lti(16, 1, 3, "last", "S4D", d_state=8, discretization="zoh", irregular=True),
    "sensor-s5-full": lti(
        24, 2, 6, "last", "S5", d_state=20, discretization="zoh", activation="full_glu", clip_eigs=True, conj_sym=True),
    "sensor-s5-half1": lti(20, 2, 3, "ema", "S5", d_state=9, discretization="bilinear", activation="half_glu1", conj_sym=False),
    "sensor-s5-irregular": lti(
        20, 2, 4, "mean", "S5", d_state=16, discretization="zoh", activation="half_glu2", irregular=True, rms=False, gaps=True),
    "sensor-s5-irregular-bilinear": lti(
        19, 1, 2, "last", "S5", d_state=34, discretization="bilinear", activation="gelu", irregular=True, gaps=True),
    "sensor-s4d-irregular-dirac": lti(18, 1, 3, "last", "S4D", d_state=6, discretization="dirac", irregular=True, gaps=True),
    "sensor-s5-irregular-async": lti(
        18, 1, 3, "last", "S5", d_state=14, discretization="async", activation="full_glu", irregular=True, gaps=True),
    "sensor-mamba1-gaps": lti(24, 2, 3, "last", "Mamba1", d_state=8, d_conv=3, expand=2, dt_rank=3, gaps=True),
    "sensor-mamba2-gaps": lti(24, 2, 3, "last", "Mamba2", d_state=16, d_conv=4, expand=2, headdim=12, ngroups=2, gaps=True),
    "sensor-missing-hold": lti(
        18, 1, 4, "last", "S4D", d_state=8, discretization="zoh", irregular=True, gaps=True, missing="hold"),
    "sensor-missing-mean": lti(16, 1, 3, "ema", "S4D", d_state=6, discretization="zoh", missing="mean"),
    "sensor-missing-zero": lti(
        20, 1, 3, "mean", "Mamba2", d_state=8, d_conv=4, expand=2, headdim=10, ngroups=1, missing="zero"),
    "sensor-taps64": lti(20, 1, 3, "last", "Mamba1", d_state=4, d_conv=64, expand=1, dt_rank=3),
}
HYENA = {
    "stripedhyena": dict(
        vocab_size=61, hidden_size=32, num_layers=3, attn_layer_idxs=[1], hyena_layer_idxs=[0, 2], num_attention_heads=4,
        proj_groups=2, state_size=2, short_filter_length=3, short_filter_bias=True, inner_mlp_size=40,
        rotary_emb_base=500000, column_split_hyena=True, _prefix=""),
    "stripedhyena-flat": dict(
        vocab_size=70, hidden_size=24, num_layers=2, attn_layer_idxs=[1], hyena_layer_idxs=[0], num_attention_heads=2,
        proj_groups=1, state_size=3, short_filter_length=4, short_filter_bias=True, inner_mlp_size=32,
        rotary_emb_base=500, column_split_hyena=False, eps=0.05, qkv_proj_bias=True, mha_out_proj_bias=True,
        tie_embeddings=True, mlp_activation="gelu", _prefix="backbone."),
}


def erf(x):
    return np.vectorize(math.erf)(x)


def gelu(x):
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def layer_norm(x, weight, bias, eps):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight + bias


# ---------------------------------------------------------------------------------------------------------------------
# Sensor classifiers


def shapes_of(spec):
    c, d = spec["ssm_cfg"], spec["d_model"]
    if c["layer"] in ("Mamba1", "Mamba2"):
        return sensor_shapes(spec)
    n = c["d_state"]
    if c["layer"] == "S4D":
        half = n // 2
        mixer = {
            "D": (d,), "kernel.log_dt": (d,), "kernel.log_A_real": (d, half), "kernel.A_imag": (d, half),
            "kernel.C": (d, half, 2), "output_linear.0.weight": (2 * d, d, 1), "output_linear.0.bias": (2 * d,)}
    else:
        p = n // 2 if c.get("conj_sym", True) else n
        mixer = {
            "D": (d,), "Lambda_re": (p,), "Lambda_im": (p,), "B": (p, d, 2), "C": (d, p, 2), "log_step": (p, 1)}
        if c["activation"] != "gelu":
            mixer |= {"out2.weight": (d, d), "out2.bias": (d,)}
        if c["activation"] == "full_glu":
            mixer |= {"out1.weight": (d, d), "out1.bias": (d,)}
    # The rest is as with the other mixers: take their list and put these in the place of theirs.
    base = sensor_shapes(spec | dict(ssm_cfg=dict(layer="Mamba1", expand=1, d_state=1, d_conv=2, dt_rank=1)))
    shapes = {name: shape for name, shape in base.items() if ".mixer." not in name}
    for i in range(spec["n_layer"]):
        shapes |= {f"backbone.layers.{i}.mixer.{name}": shape for name, shape in mixer.items()}
    if not spec["rms"]:
        shapes |= {name.replace("weight", "bias"): shape for name, shape in shapes.items() if "norm" in name}
    return shapes


def draw_lti(name, shape, rng):
    last = name.rsplit(".", 1)[-1]
    if last in ("log_dt", "log_step"):
        return rng.uniform(math.log(0.02), math.log(0.4), shape)
    if last == "log_A_real":
        return rng.uniform(math.log(0.1), math.log(2.0), shape)
    if last in ("A_imag", "Lambda_im"):
        return math.pi * np.arange(shape[-1]) + rng.normal(0, 0.7, shape)
    if last == "Lambda_re":
        return -np.exp(rng.uniform(math.log(0.1), math.log(2.0), shape))
    if last in ("B", "C"):
        return rng.normal(0, 1.5 / math.sqrt(shape[1]), shape)
    if last.endswith("bias"):
        return rng.normal(0, 0.2, shape)
    if "output_linear" in name or "out1" in name or "out2" in name:
        return rng.normal(0, 1 / math.sqrt(shape[1]), shape)
    return draw(name, shape, rng)


class Reference(SensorReference):
    """SensorReference with the time-invariant mixers and with times; `gaps` are in steps of the model's rate, (steps)."""

    def __init__(self, config, weights, gaps):
        self.config, self.ssm, self.weights, self.all_gaps = config, config["ssm_cfg"], weights, gaps
        self.inner = self.ssm.get("expand", 1) * config["d_model"]

    def norm(self, x, name):
        eps = self.config["norm_epsilon"]
        if self.config.get("rms_norm", True):
            return rms_norm(x, self.weight(f"{name}.weight"), eps)
        return layer_norm(x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias"), eps)

    def discretise(self, eigenvalues, dt):
        """log of the factor and the input's gain, for every gap: (steps, ...)"""
        step = self.gaps.reshape(-1, *[1] * np.ndim(eigenvalues)) * dt
        rule = self.ssm["discretization"]
        if rule == "zoh":
            return step * eigenvalues, np.expm1(step * eigenvalues) / eigenvalues
        if rule == "async":  # the gap ages the state alone
            return step * eigenvalues, np.expm1(dt * eigenvalues) / eigenvalues
        if rule == "dirac":
            return step * eigenvalues, np.ones_like(eigenvalues)
        half = step / 2 * eigenvalues
        return np.log((1 + half) / (1 - half)), step / (1 - half)

    def s4d(self, layer, u, convolve, scan):
        w = lambda name: self.mixer_weight(layer, name)
        a = -np.exp(w("kernel.log_A_real")) + 1j * w("kernel.A_imag")  # (d, n/2)
        log_factor, gain = self.discretise(a, np.exp(w("kernel.log_dt"))[:, None])
        c = w("kernel.C")[..., 0] + 1j * w("kernel.C")[..., 1]
        y = 2 * (scan(layer, log_factor, gain * u[:, :, None]) * c).sum(-1).real + w("D") * u
        y, gate = np.split(gelu(y) @ w("output_linear.0.weight")[:, :, 0].T + w("output_linear.0.bias"), 2, axis=-1)
        return y * sigmoid(gate)

    def s5(self, layer, u, convolve, scan):
        w = lambda name: self.mixer_weight(layer, name)
        re = w("Lambda_re")
        if self.ssm.get("clip_eigs", False):
            re = np.minimum(re, -1e-4)
        eigenvalues = re + 1j * w("Lambda_im")
        log_factor, gain = self.discretise(eigenvalues, np.exp(w("log_step")[:, 0]))
        b, c = (w(name)[..., 0] + 1j * w(name)[..., 1] for name in "BC")
        y = (scan(layer, log_factor, gain * (u @ b.T)) @ c.T).real
        y = (2 if self.ssm.get("conj_sym", True) else 1) * y + w("D") * u
        v, kind = gelu_tanh(y), self.ssm["activation"]
        if kind == "gelu":
            return v
        gate = sigmoid(v @ w("out2.weight").T + w("out2.bias"))
        if kind == "full_glu":
            return (v @ w("out1.weight").T + w("out1.bias")) * gate
        return (v if kind == "half_glu1" else y) * gate

    def features(self, frames, convolve, scan):
        mean, std = (np.array(self.config["input"][key]) for key in ("mean", "std"))
        h = (frames - mean) / std @ self.weight("backbone.encoder.weight").T + self.weight("backbone.encoder.bias")
        kind = self.ssm["layer"]
        mixer = {"Mamba1": self.mamba1, "Mamba2": self.mamba2, "S4D": self.s4d, "S5": self.s5}[kind]
        # This stepping knows how many frames went before; the whole has them all at once.
        self.gaps = self.all_gaps if len(frames) > 1 else self.all_gaps[self.step:self.step + 1]

        def timed_scan(layer, log_decay, drive):
            if kind.startswith("Mamba"):  # both are proportional to the step size
                gaps = self.gaps.reshape(-1, *[1] * (drive.ndim - 1))
                log_decay, drive = gaps * log_decay, gaps * drive
            return scan(layer, log_decay, drive)

        for layer in range(self.config["n_layer"]):
            h = h + mixer(layer, self.norm(h, f"backbone.layers.{layer}.norm"), convolve, timed_scan)
        self.step += 1
        return self.norm(h, "backbone.norm_f")

    def whole(self, frames):
        self.step = 0
        return super().whole(frames)

    def stepped(self, frames):
        self.step = 0
        self.ssm.setdefault("d_conv", 1)
        return super().stepped(frames)


def stand_in(frames, policy, mean):
    """Frames without their NaNs, in the sensor's units."""
    filled, last = frames.copy(), np.array(mean, np.float64)
    for frame in filled:
        missing = np.isnan(frame)
        frame[missing] = last[missing] if policy == "hold" else 0.0 if policy == "zero" else np.array(mean)[missing]
        last = np.where(missing, last, frame)
    return filled


def make_sensor(name, spec, folder, steps, rng):
    from safetensors.numpy import save_file

    weights = {n: draw_lti(n, s, rng).astype(np.float32) for n, s in shapes_of(spec).items()}
    if spec["ssm_cfg"].get("clip_eigs"):
        weights["backbone.layers.0.mixer.Lambda_re"][0] = 0.05  # a mode that must be clipped
    config = sensor_config(spec, name, rng)
    if not spec["rms"]:
        config["rms_norm"] = False
    if spec["missing"]:
        config["input"]["missing"] = spec["missing"]
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    mean, std = (np.array(config["input"][key]) for key in ("mean", "std"))
    period, phase = rng.uniform(5, 40, len(mean)), rng.uniform(0, 2 * np.pi, len(mean))
    swing = np.sin(2 * np.pi * np.arange(steps)[:, None] / period + phase)
    frames = (mean + std * (swing + rng.normal(0, 0.5, swing.shape))).astype(np.float32)
    if spec["missing"]:
        frames[rng.random(frames.shape) < 0.2] = np.nan
        frames[0, 0], frames[1] = np.nan, np.nan
    np.savetxt(folder / "frames.csv", frames, fmt="%.9g", delimiter=",")
    gaps = np.ones(steps)
    if spec["gaps"]:
        # Seconds, from a fifth of the model's step to five.
        seconds = (np.exp(rng.uniform(math.log(0.2), math.log(5), steps)) / config["input"]["rate_hz"]).astype(np.float32)
        np.savetxt(folder / "gaps.csv", seconds, fmt="%.9g")
        gaps = seconds.astype(np.float64) * config["input"]["rate_hz"]
    reference = Reference(config, weights, gaps)
    frames = stand_in(frames.astype(np.float64), spec["missing"], mean)
    return lambda: reference.whole(frames), lambda: reference.stepped(frames), weights


# ---------------------------------------------------------------------------------------------------------------------
# StripedHyena


def hyena_shapes(spec):
    d, n, k, f = spec["hidden_size"], spec["state_size"], spec["short_filter_length"], spec["inner_mlp_size"]
    head_dim = d // spec["num_attention_heads"]
    kv = spec["num_attention_heads"] // spec["proj_groups"]
    shapes = {"embedding_layer.weight": (spec["vocab_size"], d)}
    for i in range(spec["num_layers"]):
        block = {"pre_norm.scale": (d,), "post_norm.scale": (d,)}
        if i in spec["attn_layer_idxs"]:
            rows = d + 2 * kv * head_dim
            block |= {"inner_mha_cls.Wqkv.weight": (rows, d), "inner_mha_cls.out_proj.weight": (d, d)}
            if spec.get("qkv_proj_bias", False):
                block |= {"inner_mha_cls.Wqkv.bias": (rows,), "inner_mha_cls.out_proj.bias": (d,)}
        else:
            block |= {
                "projections.weight": (3 * d, d), "projections.bias": (3 * d,),
                "filter.short_filter_weight": (3 * d, 1, k), "filter.short_filter_bias": (3 * d,), "filter.D": (d,),
                "filter.poles": (d, n, 1, 2), "filter.residues": (d, n, 1, 2),
                "out_filter_dense.weight": (d, d), "out_filter_dense.bias": (d,)}
        block |= {"mlp.l1.weight": (f, d), "mlp.l2.weight": (f, d), "mlp.l3.weight": (d, f)}
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    shapes |= {"norm.scale": (d,)}
    return shapes if spec.get("tie_embeddings", False) else shapes | {"unembed.weight": (spec["vocab_size"], d)}


def draw_hyena(name, shape, rng):
    last = name.rsplit(".", 1)[-1]
    if last == "poles":
        radius, angle = rng.uniform(0.5, 0.995, shape[:-1]), rng.uniform(-1, 1, shape[:-1])
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)
    if last == "residues":
        return rng.normal(0, 0.3, shape)
    if last == "scale":
        return rng.uniform(0.5, 1.5, shape)
    if last.endswith("bias"):
        return rng.normal(0, 0.2, shape)
    if last == "D":
        return rng.normal(1, 0.4, shape)
    if last == "short_filter_weight":
        return rng.normal(0, 1 / math.sqrt(shape[-1]), shape)
    gain = 1.5 if "embed" in name or "Wqkv" in name else 1
    return rng.normal(0, gain / math.sqrt(shape[1]), shape)


class HyenaReference:
    def __init__(self, spec, weights):
        self.spec, self.weights = spec, weights
        self.heads = spec["num_attention_heads"]
        self.width = spec["hidden_size"] // self.heads

    def w(self, name):
        return self.weights[self.spec["_prefix"] + name].astype(np.float64)

    def norm(self, x, name):
        return x / (np.sqrt((x**2).mean(-1, keepdims=True)) + self.spec.get("eps", 1e-5)) * self.w(f"{name}.scale")

    def hyena(self, i, u, convolve, filter_):
        w = lambda name: self.w(f"blocks.{i}.{name}")
        z = u @ w("projections.weight").T + w("projections.bias")
        z = convolve(i, z, w("filter.short_filter_weight"), w("filter.short_filter_bias"))
        if self.spec["column_split_hyena"]:
            z = z.reshape(-1, self.heads, 3, self.width).transpose(2, 0, 1, 3).reshape(3, len(u), -1)
        else:
            z = z.reshape(len(u), 3, -1).transpose(1, 0, 2)
        x2, x1, v = z
        poles, residues = (w(f"filter.{name}")[:, :, 0] @ [1, 1j] for name in ("poles", "residues"))
        y = x2 * (filter_(i, x1 * v, poles, residues) + w("filter.D") * x1 * v)
        return y @ w("out_filter_dense.weight").T + w("out_filter_dense.bias")

    def attention(self, i, u, past):
        kv = self.heads // self.spec["proj_groups"]
        biased = self.spec.get("qkv_proj_bias", False)
        bias = lambda name: self.w(f"blocks.{i}.inner_mha_cls.{name}.bias") if biased else 0
        qkv = u @ self.w(f"blocks.{i}.inner_mha_cls.Wqkv.weight").T + bias("Wqkv")
        q, k, v = np.split(qkv, [self.heads * self.width, (self.heads + kv) * self.width], axis=-1)
        q, k, v = (x.reshape(len(u), -1, self.width) for x in (q, k, v))
        first, k_past, v_past = past(i)
        angle = (first + np.arange(len(u)))[:, None] * self.spec["rotary_emb_base"] ** (
            -np.arange(0, self.width, 2) / self.width)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]

        def rotate(x):
            a, b = np.split(x, 2, axis=-1)
            return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

        q, k = rotate(q), np.concatenate([k_past, rotate(k)])
        v = np.concatenate([v_past, v])
        past(i, k, v)
        k, v = (x.repeat(self.heads // kv, axis=1) for x in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(self.width)
        later = np.arange(len(k))[None] > first + np.arange(len(u))[:, None]
        scores = np.where(later, -np.inf, scores)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        y = np.einsum("hqk,khd->qhd", p / p.sum(-1, keepdims=True), v).reshape(len(u), -1)
        return y @ self.w(f"blocks.{i}.inner_mha_cls.out_proj.weight").T + bias("out_proj")

    def logits(self, tokens, convolve, filter_, past):
        x = self.w("embedding_layer.weight")[tokens]
        for i in range(self.spec["num_layers"]):
            u = self.norm(x, f"blocks.{i}.pre_norm")
            is_attention = i in self.spec["attn_layer_idxs"]
            x = x + (self.attention(i, u, past) if is_attention else self.hyena(i, u, convolve, filter_))
            u = self.norm(x, f"blocks.{i}.post_norm")
            l1, l2, l3 = (self.w(f"blocks.{i}.mlp.l{n}.weight") for n in (1, 2, 3))
            f = {"silu": silu, "gelu": gelu}[self.spec.get("mlp_activation", "silu")]
            x = x + (f(u @ l1.T) * (u @ l2.T)) @ l3.T
        head = "embedding_layer" if self.spec.get("tie_embeddings", False) else "unembed"
        return self.norm(x, "norm") @ self.w(f"{head}.weight").T

    def caches(self):
        kept, kv = {}, self.heads // self.spec["proj_groups"]

        def past(i, k=None, v=None):
            if k is not None:
                kept[i] = (len(k), k, v)
            return kept.get(i, (0, np.zeros((0, kv, self.width)), np.zeros((0, kv, self.width))))

        return past

    def whole(self, tokens):
        def filter_(i, u, poles, residues):
            # The impulse response, convolved.
            steps = np.arange(len(u))
            h = (residues[:, :, None] * poles[:, :, None] ** steps).sum(1).real  # (d, steps)
            return np.stack([(h[:, t::-1].T[:t + 1] * u[:t + 1]).sum(0) for t in steps])

        return self.logits(tokens, lambda i, x, w, b: conv_whole(x, w, b), filter_, self.caches())

    def stepped(self, tokens):
        window, state, past = {}, {}, self.caches()

        def convolve(i, x, w, b):
            seen = np.concatenate([window.get(i, np.zeros((w.shape[-1] - 1, x.shape[1]))), x])
            window[i] = seen[1:]
            return (np.einsum("ck,kc->c", w[:, 0], seen) + b)[None]

        def filter_(i, u, poles, residues):
            state[i] = poles * state.get(i, 0) + u[0][:, None]
            return (residues * state[i]).sum(-1).real[None]

        return np.concatenate([self.logits(tokens[t:t + 1], convolve, filter_, past) for t in range(len(tokens))])


def make_hyena(spec, folder, steps, rng):
    from safetensors.numpy import save_file

    prefix = spec["_prefix"]
    weights = {prefix + n: draw_hyena(n, s, rng).astype(np.float32) for n, s in hyena_shapes(spec).items()}
    keys = {k: v for k, v in spec.items() if not k.startswith("_")}
    config = dict(model_type="stripedhyena", eps=1e-5, tie_embeddings=False, qkv_proj_bias=False, mha_out_proj_bias=False,
                  final_norm=True) | keys
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    head_dim = spec["hidden_size"] // spec["num_attention_heads"]
    turned = np.arange(0, head_dim, 2, dtype=np.float32) / head_dim
    buffers = {f"{prefix}blocks.{i}.inner_mha_cls.rotary_emb.inv_freq": (spec["rotary_emb_base"] ** -turned).astype(np.float32)
               for i in spec["attn_layer_idxs"]}
    save_file(weights | buffers, folder / "model.safetensors", metadata={"format": "pt"})
    tokens = rng.integers(0, spec["vocab_size"], steps)
    tokens[:2] = spec["vocab_size"] - 1, 0  # both ends of the table
    (folder / "tokens.json").write_text(json.dumps({"tokens": tokens.tolist()}) + "\n")
    reference = HyenaReference(spec, weights)
    return lambda: reference.whole(tokens), lambda: reference.stepped(tokens), weights


# ---------------------------------------------------------------------------------------------------------------------


def make(name, out_dir, seed, steps):
    """Writes one fixture, checks it, prints its line. Returns its size."""
    folder = out_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if name in SENSOR:
        whole, stepped, weights = make_sensor(name, SENSOR[name], folder, steps, rng)
    else:
        whole, stepped, weights = make_hyena(HYENA[name], folder, steps, rng)
    expected = whole()
    largest = np.abs(expected).max()
    agree = np.abs(stepped() - expected).max() / largest
    tensor, effect = weakest_tensor(whole, weights, expected)
    return finish(name, folder, expected, agree, tensor, effect, steps)


def finish(name, folder, expected, agree, tensor, effect, steps):
    """Writes the outputs; refuses a fixture that would prove little. `agree`: of two ways to compute it; `effect`: of the weakest `tensor`."""
    largest = np.abs(expected).max()
    np.save(folder / "expected.npy", expected.astype(np.float32))
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes for its owner alone
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{name:28} {size:7} bytes  max|logit| {largest:5.2f}  whole-stepped {agree:.1e}"
          f"  weakest tensor {effect:.1e} {tensor}", flush=True)
    assert np.isfinite(expected).all() and 0.5 <= largest <= 20, f"{name}: logits out of range"
    assert agree < CACHE_BOUND, f"{name}: the reference disagrees with itself by {agree:.1e}"
    assert effect > SHUFFLE_BOUND, f"{name}: {tensor} hardly matters"
    assert steps > 64 or size < 150_000, f"{name}: {size} bytes"
    return size


def main():
    parser = argparse.ArgumentParser(description="Make tiny random checkpoints of the time-invariant state-space models.")
    parser.add_argument("out_dir", metavar="OUT_DIR", type=Path, help="gets one folder a fixture")
    parser.add_argument("--seed", type=int, default=0, help="of weights and inputs (default: 0)")
    parser.add_argument("--only", metavar="NAME", action="append", help="make this one alone; may be repeated")
    parser.add_argument("--tokens", type=int, default=64, help="steps, tokens or frames (default: 64)")
    args = parser.parse_args()
    names = list(SENSOR) + list(HYENA)
    if unknown := set(args.only or []) - set(names):
        sys.exit(f"no such fixture: {', '.join(sorted(unknown))}")
    for name in args.only or names:
        make(name, args.out_dir, args.seed, args.tokens)


if __name__ == "__main__":
    main()
