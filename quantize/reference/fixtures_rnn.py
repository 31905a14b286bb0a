#!/usr/bin/env python3
"""Make tiny random checkpoints of the recurrent families, with PyTorch's outputs: config.json, model.safetensors, frames.csv,
expected.npy, as make_fixtures.py does for the others. Needs torch, numpy and safetensors."""

import argparse
import json
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

AXES = [("ax", "m/s^2"), ("ay", "m/s^2"), ("gz", "rad/s"), ("dt", "s"), ("p", "hPa")]

# Odd sizes: none divides a tile or a vector register.
RNN = {
    "rnn-lstm-classes": {
        "rnn": "LSTM", "hidden_size": 21, "num_layers": 2, "channels": 3,
        "encoder": {"size": 13, "activation": "tanh"}, "output": {"classes": ["still", "walk", "run"]},
    },
    "rnn-gru-unit": {
        "rnn": "GRU", "hidden_size": 37, "num_layers": 2, "channels": 5,
        "output": {"values": ["w", "x", "y", "z"], "units": ["1"] * 4, "unit_norm": True},
    },
    "rnn-gru-nobias-ema": {
        "rnn": "GRU", "hidden_size": 33, "num_layers": 1, "channels": 4, "bias": False,
        "encoder": {"size": 17, "activation": "relu"},
        "output": {"values": ["speed", "slope"], "units": ["m/s", "1"], "pooling": "ema", "ema_alpha": 0.3},
    },
}

# The shape of Silero VAD, smaller; one with more positions in a chunk.
SILERO = {
    "silero-small": {
        "num_samples": 32, "context_size": 4, "n_fft": 16, "hop_length": 8, "pad": 4, "hidden_size": 19,
        "conv_channels": [11, 13, 17, 10], "conv_strides": [1, 2, 2, 1],
    },
    "silero-wide": {
        "num_samples": 50, "context_size": 7, "n_fft": 12, "hop_length": 6, "pad": 9, "hidden_size": 16,
        "conv_channels": [9, 12, 8], "conv_strides": [2, 2, 3],
    },
}


def rnn_config(name, spec, rng):
    axes = AXES[:spec["channels"]]
    config = {"model_type": "brooklet_rnn", "rnn": spec["rnn"], "hidden_size": spec["hidden_size"],
              "num_layers": spec["num_layers"], "bias": spec.get("bias", True)}
    if "encoder" in spec:
        config["encoder"] = spec["encoder"]
    config["input"] = {
        "channels": [a for a, _ in axes], "units": [u for _, u in axes], "rate_hz": 100.0,
        "mean": rng.uniform(-2, 2, len(axes)).astype(np.float32).tolist(),
        "std": rng.uniform(0.5, 3, len(axes)).astype(np.float32).tolist(),
    }
    config["output"] = spec["output"]
    config["card"] = {"name": name, "source": "random weights for tests", "license": "CC0-1.0"}
    return config


class Rnn(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        width = len(config["input"]["channels"])
        if "encoder" in config:
            self.encoder = torch.nn.Linear(width, config["encoder"]["size"])
            width = config["encoder"]["size"]
        layer = getattr(torch.nn, config["rnn"])
        self.rnn = layer(width, config["hidden_size"], config["num_layers"], bias=config["bias"], batch_first=True)
        outputs = config["output"].get("classes") or config["output"]["values"]
        self.head = torch.nn.Linear(config["hidden_size"], len(outputs))

    def forward(self, frames):
        mean, std = (torch.tensor(self.config["input"][key], dtype=frames.dtype) for key in ("mean", "std"))
        x = (frames - mean) / std
        if "encoder" in self.config:
            x = {"tanh": torch.tanh, "relu": torch.relu}[self.config["encoder"]["activation"]](self.encoder(x))
        x = self.rnn(x[None])[0][0]
        output = self.config["output"]
        if output.get("pooling") == "ema":
            pooled = [x[0]]
            for t in x[1:]:
                pooled.append(pooled[-1] + output["ema_alpha"] * (t - pooled[-1]))
            x = torch.stack(pooled)
        y = self.head(x)
        return y / y.norm(dim=-1, keepdim=True) if output.get("unit_norm") else y


def silero_config(name, spec):
    return {"model_type": "silero_vad", "name": name, "source": "random weights for tests", "license": "CC0-1.0",
            "sampling_rate": 16000, **spec}


class Silero(torch.nn.Module):
    """The published equations, a chunk at a time."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        window = config["n_fft"]
        self.bins = window // 2 + 1
        self.stft_conv = torch.nn.Conv1d(1, 2 * self.bins, window, config["hop_length"], bias=False)
        inputs = self.bins
        for i, (channels, stride) in enumerate(zip(config["conv_channels"], config["conv_strides"])):
            setattr(self, f"conv{i + 1}", torch.nn.Conv1d(inputs, channels, 3, stride, padding=1))
            inputs = channels
        self.lstm_cell = torch.nn.LSTMCell(inputs, config["hidden_size"])
        self.final_conv = torch.nn.Conv1d(config["hidden_size"], 1, 1)

    def forward(self, chunks):
        context = torch.zeros(self.config["context_size"], dtype=chunks.dtype)
        state, rows = None, []
        for chunk in chunks:
            sound = torch.cat([context, chunk])
            context = sound[-self.config["context_size"]:]
            x = self.stft_conv(F.pad(sound[None, None], (0, self.config["pad"]), "reflect"))
            x = (x[:, :self.bins] ** 2 + x[:, self.bins:] ** 2).sqrt()
            for i in range(len(self.config["conv_channels"])):
                x = getattr(self, f"conv{i + 1}")(x).relu()
            state = self.lstm_cell(x.squeeze(-1), state)
            rows.append(self.final_conv(state[0].relu()[..., None])[0, 0])
        logit = torch.cat(rows)
        return torch.stack([torch.zeros_like(logit), logit], -1)


def make(name, out_dir, seed, steps):
    folder = out_dir / name
    if folder.exists():
        # An older run's; but never wipe a folder that is not ours.
        if not (folder / "expected.npy").exists():
            sys.exit(f"{folder} exists and is not a fixture")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    torch.manual_seed(int(rng.integers(1 << 30)))
    if name in RNN:
        config = rnn_config(name, RNN[name], rng)
        model = Rnn(config)
        mean, std = (np.array(config["input"][key]) for key in ("mean", "std"))
    else:
        config = silero_config(name, SILERO[name])
        model = Silero(config)
        mean, std = np.zeros(config["num_samples"]), np.full(config["num_samples"], 0.3)
    with torch.no_grad():
        # Larger than PyTorch's start values: gates must open and close, and every bias must matter.
        for weight in model.parameters():
            weight.mul_(2.0)
        for key in ("head", "final_conv"):
            if hasattr(model, key):
                getattr(model, key).weight.mul_(3.0)
    swing = np.sin(2 * np.pi * np.arange(steps)[:, None] / rng.uniform(5, 40, len(mean)) + rng.uniform(0, 6, len(mean)))
    frames = mean + std * (swing + rng.normal(0, 0.5, swing.shape))
    np.savetxt(folder / "frames.csv", frames.astype(np.float32), fmt="%.9g", delimiter=",")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors", metadata={"format": "pt"})

    frames = np.loadtxt(folder / "frames.csv", delimiter=",", ndmin=2).astype(np.float32)
    model = model.double()
    with torch.no_grad():
        expected = model(torch.tensor(frames, dtype=torch.float64))
        weakest = np.inf
        for weight in model.parameters():
            kept = weight.clone()
            weight.copy_(weight.flatten().flip(0).reshape(weight.shape) + 0.1)
            weakest = min(weakest, float((model(torch.tensor(frames, dtype=torch.float64)) - expected).abs().max()))
            weight.copy_(kept)
    largest = float(expected.abs().max())
    np.save(folder / "expected.npy", expected.numpy().astype(np.float32))
    for path in folder.iterdir():
        path.chmod(0o644)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{name:20} {size:7} bytes  max|output| {largest:5.2f}  weakest tensor {weakest / largest:.1e}", flush=True)
    assert torch.isfinite(expected).all() and 0.1 <= largest <= 20, f"{name}: outputs out of range"
    assert weakest > 1e-3 * largest, f"{name}: some tensor hardly matters"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", metavar="OUT_DIR", type=Path, help="gets one folder a fixture")
    parser.add_argument("--seed", type=int, default=0, help="of weights and inputs (default: 0)")
    parser.add_argument("--only", metavar="NAME", action="append", help="make this one alone; may be repeated")
    parser.add_argument("--frames", type=int, default=64, help="steps (default: 64)")
    args = parser.parse_args()
    names = list(RNN) + list(SILERO)
    if unknown := set(args.only or []) - set(names):
        parser.error(f"no such fixture: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)  # a fixed order of sums, hence the same bytes on every run
    for name in names:
        if not args.only or name in args.only:
            make(name, args.out_dir, args.seed, args.frames)


if __name__ == "__main__":
    main()
