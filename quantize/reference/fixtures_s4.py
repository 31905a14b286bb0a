"""Makes the fixtures of the S4 repository's classifier: state-spaces/s4, example.py around models/s4/s4.py and s4d.py.

The reference is numpy in f64 and keeps every system dense: A = diag(Lambda) - P P* over both of each conjugate pair (Gu, Goel, Re,
"Efficiently Modeling Long Sequences with Structured State Spaces", 2022, section 3), the trapezoidal rule by solving with I - dt/2 A,
and C from the stored C (I - dA^l_kernel) by solving with that matrix, as SSMKernelDPLR._setup_step does. Nothing is diagonalised.
Once over the whole input, from powers or products of the matrices, and once as a stream; both must agree.
"""

import argparse
import json
import math
import sys
import zlib
from pathlib import Path

import numpy as np

from fixtures_draw import draw, weakest_tensor
from fixtures_sensor import sensor_config
from fixtures_ssm import finish, gelu, layer_norm, sigmoid


def s4(d_model, n_layers, channels, pooling, /, *, gaps=False, prenorm=False, layer="S4Block", l_kernel=0, legs=False, tied=True,
       **layer_args):
    return dict(d_model=d_model, n_layers=n_layers, channels=channels, pooling=pooling, gaps=gaps, prenorm=prenorm, layer=layer,
                l_kernel=l_kernel, legs=legs, tied=tied, layer_args=layer_args)


FIXTURES = {
    # HiPPO-LegS as S4 begins with, moved by a few per cent as training does.
    "s4-dplr-legs64": s4(15, 1, 3, "mean", mode="nplr", d_state=64, l_kernel=784, legs=True),
    "s4-dplr-rank2": s4(18, 2, 4, "last", prenorm=True, mode="dplr", d_state=16, rank=2, n_ssm=6, l_kernel=37),
    "s4-dplr-untied": s4(13, 1, 6, "ema", mode="s4", d_state=22, tied=False, channels=2, dt_transform="softplus", final_act="silu"),
    "s4-dplr-irregular": s4(14, 2, 3, "last", mode="dplr", d_state=32, irregular=True, legs=True, l_kernel=64, gaps=True),
    "s4-diag-zoh": s4(17, 2, 3, "mean", prenorm=True, mode="diag", d_state=16, disc="zoh", n_ssm=1),
    "s4-diag-bilinear": s4(21, 1, 2, "last", mode="s4d", d_state=18, disc="bilinear", real_transform="softplus",
                           imag_transform="relu", activation="silu", final_act="id"),
    "s4-diag-irregular": s4(12, 1, 3, "ema", mode="diag", d_state=10, disc="zoh", irregular=True, activation=None, final_act=None,
                            gaps=True),
    "s4-example-s4d": s4(20, 2, 3, "mean", layer="S4D", d_state=12),
}


def is_dplr(args):
    return args.get("mode") in ("dplr", "nplr", "s4")


def shapes_of(spec):
    a, d = spec["layer_args"], spec["d_model"]
    half, systems, outputs = a["d_state"] // 2, a.get("n_ssm", d), a.get("channels", 1)
    if spec["layer"] == "S4D":
        block = {"D": (d,), "kernel.log_dt": (d,), "kernel.log_A_real": (d, half), "kernel.A_imag": (d, half),
                 "kernel.C": (d, half, 2), "output_linear.0.weight": (2 * d, d, 1), "output_linear.0.bias": (2 * d,)}
    else:
        block = {"layer.D": (outputs, d), "layer.kernel.inv_dt": (d, 1 if spec["tied"] else half),
                 "layer.kernel.A_real": (systems, half), "layer.kernel.A_imag": (systems, half),
                 "layer.kernel.B": (1, systems, half, 2), "layer.kernel.C": (outputs, d, half, 2)}
        if is_dplr(a):
            block["layer.kernel.P"] = (a.get("rank", 1), systems, half, 2)
        if "final_act" not in a or a["final_act"] is not None:
            rows = 2 * d if a.get("final_act", "glu") == "glu" else d
            block |= {"output_linear.0.weight": (rows, outputs * d), "output_linear.0.bias": (rows,)}
    shapes = {"encoder.weight": (d, spec["channels"]), "encoder.bias": (d,)}
    for i in range(spec["n_layers"]):
        shapes |= {f"s4_layers.{i}.{name}": shape for name, shape in block.items()}
        shapes |= {f"norms.{i}.weight": (d,), f"norms.{i}.bias": (d,)}
    return shapes | {"decoder.weight": (5, d), "decoder.bias": (5,)}


def legs(states):
    """HiPPO-LegS as diagonal minus P P*: one of each conjugate pair of Lambda, P and B."""
    q = np.arange(states)
    root = np.sqrt(2 * q + 1.0)
    a = -np.where(q[:, None] > q, root[:, None] * root, 0) - np.diag(q + 1.0)
    p = np.sqrt(q + 0.5)
    skew = a + np.outer(p, p) + np.eye(states) / 2
    turns, v = np.linalg.eigh(-1j * skew)
    v = v[:, turns < 0]
    return -0.5 + 1j * turns[turns < 0], v.conj().T @ p, v.conj().T @ root


def invert(x, transform):
    x = np.maximum(x, 1e-4)
    return {"none": x, "exp": np.log(x), "relu": x - 1e-4, "softplus": np.log(np.expm1(x))}[transform]


def transform(x, name):
    return {"none": lambda: x, "exp": lambda: np.exp(x), "relu": lambda: np.maximum(x, 0) + 1e-4,
            "softplus": lambda: np.logaddexp(0, x)}[name]()


def draw_s4(name, shape, spec, rng):
    a, last = spec["layer_args"], name.rsplit(".", 1)[-1]
    low, high = (3e-3, 0.05) if spec["legs"] else (0.02, 0.3)
    dt = np.exp(rng.uniform(math.log(low), math.log(high), shape))
    moved = lambda x: x * (1 + 0.04 * rng.normal(size=x.shape)) + 0.04 * rng.normal(size=x.shape)
    hippo = lambda which: moved(np.broadcast_to(legs(a["d_state"])[which], shape[:-1] if last in "BP" else shape))
    if last == "log_dt":
        return np.log(dt)
    if last == "inv_dt":
        return invert(dt, a.get("dt_transform", "exp"))
    if last in ("A_real", "log_A_real"):
        real = np.exp(rng.uniform(math.log(0.2), math.log(2.0), shape)) if not spec["legs"] else moved(np.full(shape, 0.5))
        return invert(real, a.get("real_transform", "exp"))
    if last == "A_imag":
        imag = -hippo(0).imag if spec["legs"] else math.pi * np.arange(shape[-1]) + np.abs(rng.normal(0, 0.7, shape))
        return invert(imag, a.get("imag_transform", "none")) if a.get("imag_transform") else imag
    if last in "BP":
        if spec["legs"]:
            x = hippo(2 if last == "B" else 1)
            return np.stack([x.real, x.imag + 0.04 * rng.normal(size=x.shape)], -1)
        return rng.normal(0, 0.8, shape)
    if last == "C":
        return rng.normal(0, 1.5 / math.sqrt(shape[-2]), shape)
    if last == "D" or last == "bias" and "norms" not in name:
        return rng.normal(1.0, 0.4, shape) if last == "D" else rng.normal(0, 0.2, shape)
    if "output_linear" in name:
        return rng.normal(0, 1 / math.sqrt(shape[1]), shape)
    if "decoder" in name:
        return rng.normal(0, 2 / math.sqrt(shape[1]), shape)
    return draw(name, shape, rng)


def both(x):
    """The numbers and their conjugates, along the last axis."""
    return np.concatenate([x, x.conj()], -1)


class Reference:
    """`gaps` are in steps of the model's rate, (steps)."""

    def __init__(self, spec, config, weights, gaps):
        self.spec, self.args, self.config, self.weights, self.all_gaps = spec, spec["layer_args"], config, weights, gaps

    def w(self, name):
        return self.weights[name].astype(np.float64)

    def system(self, layer):
        """Dense A (d, n, n), B (d, n), C (outputs, d, n), step sizes (d, n), all before discretisation."""
        d = self.spec["d_model"]
        if self.spec["layer"] == "S4D":
            w = lambda name: self.w(f"s4_layers.{layer}.kernel.{name}")
            diagonal = -np.exp(w("log_A_real")) + 1j * w("A_imag")
            c = (w("C")[..., 0] + 1j * w("C")[..., 1])[None]
            b, p, dt = np.ones_like(diagonal), [], np.exp(w("log_dt"))[:, None]
        else:
            w = lambda name: self.w(f"s4_layers.{layer}.layer.kernel.{name}")
            as_complex = lambda x: x[..., 0] + 1j * x[..., 1]
            # repeat(A, 't n -> (v t) n'): channel h has system h mod n_ssm.
            spread = lambda x: np.concatenate([x] * (d // x.shape[-2]), -2)
            real = transform(w("A_real"), self.args.get("real_transform", "exp"))
            imag = transform(w("A_imag"), self.args.get("imag_transform", "none"))
            diagonal, b = spread(-real - 1j * imag), spread(as_complex(w("B")))[0]
            c = as_complex(w("C"))
            p = spread(as_complex(w("P"))) if is_dplr(self.args) else []
            dt = transform(w("inv_dt"), self.args.get("dt_transform", "exp"))
        a = np.stack([np.diag(row) for row in both(diagonal)])
        for column in p:
            column = both(column)
            a = a - column[:, :, None] * column[:, None, :].conj()
        return a, both(b), both(c), both(np.broadcast_to(dt, diagonal.shape))

    def discretise(self, a, b, dt, gap):
        """dA (d, n, n) and dB (d, n) of one step of `gap`."""
        dt = gap * dt
        if is_dplr(self.args) or self.args.get("disc") == "bilinear":
            eye = np.eye(a.shape[-1])
            half = dt[:, :, None] / 2 * a
            return np.linalg.solve(eye - half, eye + half), np.linalg.solve(eye - half, (dt * b)[..., None])[..., 0]
        # Only diagonal systems are held: their exponential is that of the diagonal.
        diagonal = np.diagonal(a, axis1=-2, axis2=-1)
        return np.stack([np.diag(row) for row in np.exp(dt * diagonal)]), b * np.expm1(dt * diagonal) / diagonal

    def plain_c(self, layer, a, b, c, dt):
        """C from the C (I - dA^l_kernel) that a trained file holds."""
        if not is_dplr(self.args) or self.spec["l_kernel"] == 0:
            return c
        da, _ = self.discretise(a, b, dt, 1.0)
        rest = np.eye(a.shape[-1]) - np.linalg.matrix_power(da, self.spec["l_kernel"])
        return np.linalg.solve(np.swapaxes(rest, -1, -2)[None], c[..., None])[..., 0]

    def logits(self, frames, ssm, pool):
        mean, std = (np.array(self.config["input"][key]) for key in ("mean", "std"))
        h = (frames - mean) / std @ self.w("encoder.weight").T + self.w("encoder.bias")
        act = lambda x, name: {"gelu": gelu, "silu": lambda x: x * sigmoid(x), "id": lambda x: x, None: lambda x: x}[name](x)
        for i in range(self.spec["n_layers"]):
            norm = lambda x: layer_norm(x, self.w(f"norms.{i}.weight"), self.w(f"norms.{i}.bias"), 1e-5)
            u = norm(h) if self.spec["prenorm"] else h
            skip = self.w(f"s4_layers.{i}.D" if self.spec["layer"] == "S4D" else f"s4_layers.{i}.layer.D")
            y = ssm(i, u) + u[:, None] * skip.reshape(-1, u.shape[1])  # (steps, outputs, d)
            y = act(y.reshape(len(u), -1), self.args.get("activation", "gelu"))
            final = self.args.get("final_act", "glu")
            if final is not None:
                w, bias = (self.w(f"s4_layers.{i}.output_linear.0.{part}") for part in ("weight", "bias"))
                y = y @ w.reshape(len(w), -1).T + bias
                if final == "glu":
                    y, gate = np.split(y, 2, axis=-1)
                    y = y * sigmoid(gate)
                else:
                    y = act(y, final)
            h = h + y if self.spec["prenorm"] else norm(h + y)
        return pool(h) @ self.w("decoder.weight").T + self.w("decoder.bias")

    def whole(self, frames):
        steps = np.arange(len(frames))

        def ssm(layer, u):
            a, b, c, dt = self.system(layer)
            c = self.plain_c(layer, a, b, c, dt)
            y = np.zeros((len(u), *c.shape[:2]))
            if (self.all_gaps == 1).all():  # the convolution with C dA^l dB
                da, db = self.discretise(a, b, dt, 1.0)
                for lag in steps:
                    response = np.einsum("cdn,dn->cd", c, db).real
                    y[lag:] += response * u[:len(u) - lag, None]
                    c = np.einsum("cdn,dnm->cdm", c, da)
                return y
            stepped = [self.discretise(a, b, dt, gap) for gap in self.all_gaps]
            for t in steps:  # C dA_t .. dA_(j+1) dB_j
                row = c
                for j in range(t, -1, -1):
                    y[t] += np.einsum("cdn,dn->cd", row, stepped[j][1]).real * u[j]
                    row = np.einsum("cdn,dnm->cdm", row, stepped[j][0])
            return y

        def pool(f):
            if self.config["output"]["pooling"] == "mean":
                return np.cumsum(f, 0) / (steps + 1)[:, None]
            if self.config["output"]["pooling"] == "last":
                return f
            alpha = self.config["output"]["ema_alpha"]
            age = steps[:, None] - steps
            share = np.where(age >= 0, alpha * (1 - alpha) ** np.maximum(age, 0), 0)
            share[:, 0] = (1 - alpha) ** steps
            return share @ f

        return self.logits(frames, ssm, pool)

    def stepped(self, frames):
        systems = [self.system(i) for i in range(self.spec["n_layers"])]
        outputs = [self.plain_c(i, *system) for i, system in enumerate(systems)]
        state, rows, memory = {}, [], {}
        kind, alpha = self.config["output"]["pooling"], self.config["output"]["ema_alpha"]

        def ssm(layer, u):
            a, b, _, dt = systems[layer]
            da, db = self.discretise(a, b, dt, self.all_gaps[len(rows)])
            before = state.get(layer, np.zeros_like(db))
            state[layer] = np.einsum("dnm,dm->dn", da, before) + db * u[0][:, None]
            return np.einsum("cdn,dn->cd", outputs[layer], state[layer]).real[None]

        def pool(f):
            t = len(rows)
            weight = 1.0 if t == 0 or kind == "last" else 1 / (t + 1) if kind == "mean" else alpha
            memory[0] = memory.get(0, 0) + weight * (f - memory.get(0, 0))
            return memory[0]

        for frame in frames:
            rows.append(self.logits(frame[None], ssm, pool)[0])
        return np.stack(rows)


def make(name, out_dir, seed, steps):
    """Writes one fixture, checks it, prints its line. Returns its size."""
    from safetensors.numpy import save_file

    folder = out_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    spec = FIXTURES[name]
    weights = {n: np.ascontiguousarray(draw_s4(n, s, spec, rng), np.float32) for n, s in shapes_of(spec).items()}
    sensor = sensor_config(dict(d_model=0, n_layer=0, ssm_cfg={}, channels=spec["channels"], pooling=spec["pooling"]), name, rng)
    config = {"model_type": "s4", "d_model": spec["d_model"], "n_layers": spec["n_layers"], "prenorm": spec["prenorm"],
              "layer": spec["layer"], "layer_args": spec["layer_args"]} | {k: sensor[k] for k in ("input", "output", "card")}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    lengths = {}
    if is_dplr(spec["layer_args"]):
        lengths = {f"s4_layers.{i}.layer.kernel.l_kernel": np.array(spec["l_kernel"], np.int64) for i in range(spec["n_layers"])}
    save_file(weights | lengths, folder / "model.safetensors", metadata={"format": "pt"})

    mean, std = (np.array(config["input"][key]) for key in ("mean", "std"))
    period, phase = rng.uniform(5, 40, len(mean)), rng.uniform(0, 2 * np.pi, len(mean))
    swing = np.sin(2 * np.pi * np.arange(steps)[:, None] / period + phase)
    frames = (mean + std * (swing + rng.normal(0, 0.5, swing.shape))).astype(np.float32)
    np.savetxt(folder / "frames.csv", frames, fmt="%.9g", delimiter=",")
    gaps = np.ones(steps)
    if spec["gaps"]:
        seconds = (np.exp(rng.uniform(math.log(0.2), math.log(5), steps)) / config["input"]["rate_hz"]).astype(np.float32)
        np.savetxt(folder / "gaps.csv", seconds, fmt="%.9g")
        gaps = seconds.astype(np.float64) * config["input"]["rate_hz"]
    reference = Reference(spec, config, weights, gaps)
    frames = frames.astype(np.float64)
    expected = reference.whole(frames)
    largest = np.abs(expected).max()
    agree = np.abs(reference.stepped(frames) - expected).max() / largest
    # By the stream: the sums over the past take their time.
    tensor, effect = weakest_tensor(lambda: reference.stepped(frames), weights, expected)
    if spec["l_kernel"]:
        kept = spec["l_kernel"]
        reference.spec = spec | dict(l_kernel=kept + 1)
        moved = np.abs(reference.stepped(frames) - expected).max() / largest
        assert moved > 1e-6, f"{name}: l_kernel hardly matters, {moved:.1e}"
    return finish(name, folder, expected, agree, tensor, effect, steps)


def main():
    parser = argparse.ArgumentParser(description="Make tiny random checkpoints of the S4 repository's classifier.")
    parser.add_argument("out_dir", metavar="OUT_DIR", type=Path, help="gets one folder a fixture")
    parser.add_argument("--seed", type=int, default=0, help="of weights and inputs (default: 0)")
    parser.add_argument("--only", metavar="NAME", action="append", help="make this one alone; may be repeated")
    parser.add_argument("--tokens", type=int, default=64, help="frames (default: 64)")
    args = parser.parse_args()
    if unknown := set(args.only or []) - set(FIXTURES):
        sys.exit(f"no such fixture: {', '.join(sorted(unknown))}")
    for name in args.only or FIXTURES:
        make(name, args.out_dir, args.seed, args.tokens)


if __name__ == "__main__":
    main()
