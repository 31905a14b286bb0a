"""The sensor classifiers: our own convention, which transformers does not know, hence a short reference in f64."""

import json

import numpy as np

from fixtures_draw import draw_all


def sensor(d_model, n_layer, channels, pooling, **ssm_cfg):
    return dict(d_model=d_model, n_layer=n_layer, channels=channels, pooling=pooling, ssm_cfg=ssm_cfg)


SENSOR = {
    "sensor-mamba2-last": sensor(
        30, 2, 6, "last", layer="Mamba2", d_state=16, d_conv=4, expand=2, headdim=20, ngroups=1),
    "sensor-mamba2-ema": sensor(
        30, 1, 3, "ema", layer="Mamba2", d_state=24, d_conv=4, expand=2, headdim=10, ngroups=2),
    "sensor-mamba1-mean": sensor(72, 1, 9, "mean", layer="Mamba1", d_state=8, d_conv=4, expand=1, dt_rank=5),
    "sensor-mamba1-last": sensor(24, 2, 1, "last", layer="Mamba1", d_state=16, d_conv=3, expand=2, dt_rank=5),
}


def sensor_shapes(spec):
    c, d = spec["ssm_cfg"], spec["d_model"]
    e, n, k = c["expand"] * d, c["d_state"], c["d_conv"]
    if c["layer"] == "Mamba2":
        heads, conv = e // c["headdim"], e + 2 * c["ngroups"] * n
        mixer = {
            "in_proj.weight": (e + conv + heads, d), "conv1d.weight": (conv, 1, k), "conv1d.bias": (conv,),
            "dt_bias": (heads,), "A_log": (heads,), "D": (heads,), "norm.weight": (e,), "out_proj.weight": (d, e)}
    else:
        r = c["dt_rank"]
        mixer = {
            "in_proj.weight": (2 * e, d), "conv1d.weight": (e, 1, k), "conv1d.bias": (e,),
            "x_proj.weight": (r + 2 * n, e), "dt_proj.weight": (e, r), "dt_proj.bias": (e,),
            "A_log": (e, n), "D": (e,), "out_proj.weight": (d, e)}
    shapes = {"backbone.encoder.weight": (d, spec["channels"]), "backbone.encoder.bias": (d,)}
    for i in range(spec["n_layer"]):
        shapes[f"backbone.layers.{i}.norm.weight"] = (d,)
        shapes |= {f"backbone.layers.{i}.mixer.{name}": shape for name, shape in mixer.items()}
    classes = len(CLASSES)
    return shapes | {"backbone.norm_f.weight": (d,), "head.weight": (classes, d), "head.bias": (classes,)}


CLASSES = ["still", "walk", "run", "turn", "fall"]
AXES = [("ax", "m/s^2"), ("ay", "m/s^2"), ("az", "m/s^2"), ("gx", "rad/s"), ("gy", "rad/s"), ("gz", "rad/s"),
        ("mx", "uT"), ("my", "uT"), ("mz", "uT")]


def sensor_config(spec, name, rng):
    axes = AXES[:spec["channels"]]
    # In 64ths, hence exact in f32: what is compared is the model, not the rounding of these constants.
    mean = rng.integers(-128, 128, len(axes)) / 64
    std = rng.integers(32, 160, len(axes)) / 64
    return {
        "model_type": "brooklet_sensor", "d_model": spec["d_model"], "n_layer": spec["n_layer"], "norm_epsilon": 1e-5,
        "ssm_cfg": spec["ssm_cfg"],
        "input": {"channels": [a for a, _ in axes], "units": [u for _, u in axes], "rate_hz": 50.0,
                  "mean": mean.tolist(), "std": std.tolist()},
        "output": {"classes": CLASSES, "pooling": spec["pooling"], "ema_alpha": 0.05},
        "card": {"name": name, "source": "random weights for tests", "license": "CC0-1.0"},
    }


def silu(x):
    return x / (1 + np.exp(-x))


def softplus(x):
    return np.logaddexp(0, x)


def rms_norm(x, weight, eps, groups=1):
    """Over the last axis, or over each of its `groups` equal parts."""
    parts = x.reshape(*x.shape[:-1], groups, -1)
    parts = parts / np.sqrt((parts**2).mean(-1, keepdims=True) + eps)
    return parts.reshape(x.shape) * weight


def conv_whole(x, weight, bias):
    """Causal depthwise convolution of x (steps, channels); the last tap meets the current step."""
    taps = weight.shape[-1]
    padded = np.concatenate([np.zeros((taps - 1, x.shape[1])), x])
    return bias + sum(weight[:, 0, k] * padded[k:k + len(x)] for k in range(taps))


def states_whole(log_decay, drive):
    """All states of h_t = exp(log_decay_t) h_(t-1) + drive_t at once, as the sum over the past that it stands for.

    Both (steps, ...), broadcast against each other. Quadratic in steps, and shares nothing with the recurrence.
    """
    total = np.cumsum(log_decay, 0)
    return np.stack([(np.exp(total[t] - total[:t + 1]) * drive[:t + 1]).sum(0) for t in range(len(total))])


class SensorReference:
    """The model's equations, in f64, once over the whole input (`whole`) and once as a stream (`stepped`)."""

    def __init__(self, config, weights):
        self.config, self.ssm, self.weights = config, config["ssm_cfg"], weights
        self.inner = self.ssm["expand"] * config["d_model"]

    def weight(self, name):
        return self.weights[name].astype(np.float64)

    def mixer_weight(self, layer, name):
        return self.weight(f"backbone.layers.{layer}.mixer.{name}")

    # Both mixers are the same four parts: project, convolve, scan, project. `convolve(layer, x)` and
    # `scan(layer, log_decay, drive)` are the only parts with a memory, so whole and stream differ in these alone.
    # u: (steps, d_model)

    def mamba1(self, layer, u, convolve, scan):
        w = lambda name: self.mixer_weight(layer, name)
        rank, n = self.ssm["dt_rank"], self.ssm["d_state"]
        x, z = np.split(u @ w("in_proj.weight").T, 2, axis=-1)
        x = silu(convolve(layer, x))
        dt, b, c = np.split(x @ w("x_proj.weight").T, [rank, rank + n], axis=-1)
        dt = softplus(dt @ w("dt_proj.weight").T + w("dt_proj.bias"))  # (steps, inner)
        log_decay = dt[:, :, None] * -np.exp(w("A_log"))  # (steps, inner, d_state)
        drive = (dt * x)[:, :, None] * b[:, None, :]
        y = np.einsum("ten,tn->te", scan(layer, log_decay, drive), c) + w("D") * x
        return (y * silu(z)) @ w("out_proj.weight").T

    def mamba2(self, layer, u, convolve, scan):
        w = lambda name: self.mixer_weight(layer, name)
        n, groups, width = self.ssm["d_state"], self.ssm["ngroups"], self.ssm["headdim"]
        heads = self.inner // width
        conv = self.inner + 2 * groups * n
        z, xbc, dt = np.split(u @ w("in_proj.weight").T, [self.inner, self.inner + conv], axis=-1)
        xbc = silu(convolve(layer, xbc))
        x, b, c = np.split(xbc, [self.inner, self.inner + groups * n], axis=-1)
        x = x.reshape(-1, heads, width)
        # Each group's B and C serve a contiguous run of heads.
        b = b.reshape(-1, groups, n).repeat(heads // groups, axis=1)
        c = c.reshape(-1, groups, n).repeat(heads // groups, axis=1)
        dt = softplus(dt + w("dt_bias"))  # (steps, heads)
        log_decay = (dt * -np.exp(w("A_log")))[:, :, None, None]
        drive = (dt[:, :, None] * x)[..., None] * b[:, :, None, :]  # (steps, heads, headdim, d_state)
        y = np.einsum("thpn,thn->thp", scan(layer, log_decay, drive), c) + w("D")[:, None] * x
        gated = y.reshape(-1, self.inner) * silu(z)
        gated = rms_norm(gated, w("norm.weight"), self.config["norm_epsilon"], groups)
        return gated @ w("out_proj.weight").T

    def features(self, frames, convolve, scan):
        """(steps, d_model), before pooling."""
        eps = self.config["norm_epsilon"]
        mean, std = (np.array(self.config["input"][key]) for key in ("mean", "std"))
        h = (frames - mean) / std @ self.weight("backbone.encoder.weight").T + self.weight("backbone.encoder.bias")
        mixer = {"Mamba1": self.mamba1, "Mamba2": self.mamba2}[self.ssm["layer"]]
        for layer in range(self.config["n_layer"]):
            normed = rms_norm(h, self.weight(f"backbone.layers.{layer}.norm.weight"), eps)
            h = h + mixer(layer, normed, convolve, scan)
        return rms_norm(h, self.weight("backbone.norm_f.weight"), eps)

    def head(self, pooled):
        return pooled @ self.weight("head.weight").T + self.weight("head.bias")

    def whole(self, frames):
        def convolve(layer, x):
            return conv_whole(x, self.mixer_weight(layer, "conv1d.weight"), self.mixer_weight(layer, "conv1d.bias"))

        f = self.features(frames, convolve, lambda layer, log_decay, drive: states_whole(log_decay, drive))
        steps = np.arange(len(f))
        if self.config["output"]["pooling"] == "mean":
            f = np.cumsum(f, 0) / (steps + 1)[:, None]
        elif self.config["output"]["pooling"] == "ema":
            # p_t = sum over j <= t of alpha (1 - alpha)^(t - j) f_j, where the first frame stands for all before it.
            alpha = self.config["output"]["ema_alpha"]
            age = steps[:, None] - steps
            share = np.where(age >= 0, alpha * (1 - alpha) ** np.maximum(age, 0), 0)
            share[:, 0] = (1 - alpha) ** steps
            f = share @ f
        return self.head(f)

    def stepped(self, frames):
        taps = self.ssm["d_conv"]
        past, state = {}, {}

        def convolve(layer, x):  # x: (1, channels)
            window = np.concatenate([past.get(layer, np.zeros((taps - 1, x.shape[1]))), x])
            past[layer] = window[1:]
            weight = self.mixer_weight(layer, "conv1d.weight")[:, 0, :]
            return (np.einsum("ck,kc->c", weight, window) + self.mixer_weight(layer, "conv1d.bias"))[None]

        def scan(layer, log_decay, drive):
            state[layer] = np.exp(log_decay) * state.get(layer, 0) + drive
            return state[layer]

        output, rows, pooled, total = self.config["output"], [], None, 0
        for t, frame in enumerate(frames):
            f = self.features(frame[None], convolve, scan)
            total = total + f
            if output["pooling"] == "last":
                pooled = f
            elif output["pooling"] == "mean":
                pooled = total / (t + 1)
            else:
                pooled = f if pooled is None else pooled + output["ema_alpha"] * (f - pooled)
            rows.append(self.head(pooled)[0])
        return np.stack(rows)


def make_sensor(name, spec, folder, steps, rng):
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    weights = draw_all(sensor_shapes(spec), rng)
    config = sensor_config(spec, name, rng)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    # Swings of different lengths plus noise, around the stated mean. Nine digits give back the same f32.
    mean, std = (np.array(config["input"][key]) for key in ("mean", "std"))
    period, phase = rng.uniform(5, 40, len(mean)), rng.uniform(0, 2 * np.pi, len(mean))
    swing = np.sin(2 * np.pi * np.arange(steps)[:, None] / period + phase)
    frames = (mean + std * (swing + rng.normal(0, 0.5, swing.shape))).astype(np.float32)
    np.savetxt(folder / "frames.csv", frames, fmt="%.9g", delimiter=",")

    frames = np.loadtxt(folder / "frames.csv", delimiter=",", ndmin=2).astype(np.float32).astype(np.float64)
    reference = SensorReference(config, weights)
    return lambda: reference.whole(frames), lambda: reference.stepped(frames), weights
