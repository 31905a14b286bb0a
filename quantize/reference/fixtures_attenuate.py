"""Fixtures of aTENNuate: the published package's own model, run in f64 over whole recordings.

The package answers for a sample with a little of what comes after it; a stream answers so many samples later. So the expected
outputs are the package's, `delay` steps late, zeros before. It is run on a longer recording than the stream is given: what
comes behind must not matter, which is checked.

Needs torch, einops, opt-einsum and attenuate 0.1.1 (`pip install --no-deps attenuate==0.1.1`; the sound libraries that it asks
for are not used here).
"""

import importlib
import json
import math
import sys
import types

import numpy as np

from fixtures_draw import inverse_softplus

SPEC = {"channels", "resample_factors", "num_coeffs", "repeat", "pre_conv", "in_channels"}

# A frame of more than 16 samples, as in the second, has matrices that take the recipe's format.
# Modes: 35 is 5 rows of 7 lanes in a layer of one channel, 32 fills two vectors, 12 not even one.
ATTENUATE = {
    "attenuate": dict(channels=[4, 6, 8], resample_factors=[4, 2, 2], num_coeffs=5, repeat=7, pre_conv=True, in_channels=1),
    "attenuate-no-conv": dict(channels=[5, 7], resample_factors=[3, 6], num_coeffs=4, repeat=8, pre_conv=False, in_channels=1),
    # A norm over two or three channels is nearly a sign, of which nothing could be measured.
    "attenuate-channels": dict(channels=[6, 5, 8], resample_factors=[3, 1, 2], num_coeffs=4, repeat=3, pre_conv=True, in_channels=6),
}


def package():
    """The package's module, without its rounding to f32 and without what it only needs for files."""
    for name in ("librosa", "torchaudio", "huggingface_hub"):
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].hf_hub_download = None
    try:
        module = importlib.import_module("attenuate.model")
    except ImportError as e:
        sys.exit(f"{e}: the attenuate fixtures need `pip install --no-deps attenuate==0.1.1 einops opt-einsum`")
    import torch

    def fft_conv(equation, input, kernel, *args):
        n = input.shape[-1]
        args = (torch.complex(arg, torch.zeros_like(arg)) for arg in args)
        product = torch.einsum(equation, torch.fft.rfft(input, 2 * n), torch.fft.rfft(kernel, 2 * n), *args)
        return torch.fft.irfft(product, 2 * n)[..., :n]

    module.fft_conv = fft_conv
    return module


def delay_samples(spec):
    """Samples that wait until a frame of the lowest level is whole, and one frame ahead for every convolution."""
    period, delay = 1, 0
    for level, channels in enumerate([spec["in_channels"]] + spec["channels"]):
        # One layer going down, one going up; at the top two more, at the bottom there are two.
        convolutions = (4 if level == 0 else 2) if spec["pre_conv"] and channels > 1 else 0
        delay += convolutions * period
        if level < len(spec["resample_factors"]):
            period *= spec["resample_factors"][level]
    return delay + period - 1


def draw(name, shape, rng):
    if name.endswith("log_dt"):  # a few frames to some dozens, so that short streams see every mode at work
        return rng.uniform(math.log(0.05), math.log(0.5), shape)
    if name.endswith(".A"):
        return np.stack([inverse_softplus(rng.uniform(0.3, 1.0, shape[0])), np.pi * rng.uniform(0, 4, shape[0])], -1)
    if name.endswith(".B"):
        return rng.normal(1.0, 0.5, shape) / math.sqrt(shape[1])
    if name.endswith(".C"):
        return rng.normal(0.0, (6.0 if shape[0] <= 2 else 3.0) / math.sqrt(shape[1]), shape)
    if name.endswith("bias"):
        return rng.normal(0.0, 0.2, shape)
    if name.endswith("layer_norm.weight"):
        return rng.uniform(0.5, 1.5, shape)
    if shape[1:] == (1, 3):  # convolution
        return rng.normal(0.0, 1 / math.sqrt(3), shape)
    mixing = shape[0] * (shape[2] if name.startswith("down") else 1)
    return rng.normal(0.0, 1 / math.sqrt(mixing), shape)


def make_attenuate(name, spec, folder, steps, rng):
    import torch
    from safetensors.numpy import save_file

    assert set(spec) == SPEC, name
    model = package().Denoiser(**spec).double()
    weights = {key: draw(key, tuple(w.shape), rng).astype(np.float32) for key, w in model.state_dict().items()}
    delay = delay_samples(spec)
    lowest = math.prod(spec["resample_factors"])
    inputs = spec["in_channels"]
    # Behind the stream's samples: enough for the recording to end long after what is compared, on a whole frame.
    length = -(-(delay + steps + 4 * lowest + 4 * delay) // lowest) * lowest
    swing = np.sin(2 * np.pi * np.arange(length)[:, None] / rng.uniform(7, 60, inputs) + rng.uniform(0, 6, inputs))
    recording = (0.5 * swing + rng.normal(0, 0.4, swing.shape)).astype(np.float32)
    config = {"model_type": "attenuate", **spec, "sampling_rate": 16000, "name": name, "source": "random weights for tests",
              "license": "CC0-1.0"}

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    np.savetxt(folder / "frames.csv", recording[:delay + steps], fmt="%.9g", delimiter=",")
    recording[:delay + steps] = np.loadtxt(folder / "frames.csv", delimiter=",", ndmin=2)

    def answers(recording):
        model.load_state_dict({key: torch.from_numpy(w.astype(np.float64)) for key, w in weights.items()})
        with torch.no_grad():
            return model(torch.from_numpy(recording.astype(np.float64).T[None])).numpy()[0].T[:steps]

    def whole():
        return np.concatenate([np.zeros((delay, inputs)), answers(recording)])

    other = recording.copy()
    other[delay + steps:] += 1.0
    assert np.abs(answers(other) - answers(recording)).max() < 1e-11, f"{name}: looks further ahead than {delay} samples"
    # Of the samples in a frame of the lowest level, some one waits as long as that.
    first = answers(recording)
    moved = []
    for t in range(steps - lowest, steps):
        other = recording.copy()
        other[t + delay:] *= -30.0
        moved.append(np.abs(answers(other) - first)[t].max())
    assert max(moved) > 1e-10, f"{name}: looks less far ahead than {delay} samples"
    return whole, None, weights
