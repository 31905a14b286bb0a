#!/usr/bin/env python3
"""Compare RIANN in a .brook file with its own ONNX file in onnxruntime, over a synthetic motion at a varying sampling rate.

Make the file with import_riann.py and `brooklet quantize`. Needs numpy and onnxruntime."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np


def motion(seconds, seed):
    """Frames (steps, 7): a sensor that swings about all axes and shakes, sampled at 50 to 400 Hz; noise and bias as real ones have."""
    rng = np.random.default_rng(seed)
    # The rate wanders, and every interval jitters.
    steps, t, times = [], 0.0, []
    while t < seconds:
        rate = np.exp(np.log(141) + np.log(2.8) * np.sin(2 * np.pi * t / 17.0))
        dt = rng.uniform(0.8, 1.2) / rate
        t += dt
        steps.append(dt)
        times.append(t)
    dt, t = np.array(steps), np.array(times)
    waves = lambda count, low, high, size: sum(
        size / count * rng.normal(1, 0.3, 3) * np.sin(2 * np.pi * rng.uniform(low, high, 3) * t[:, None] + rng.uniform(0, 6.3, 3))
        for _ in range(count))
    calm = np.clip(np.sin(2 * np.pi * t / 23.0) * 3 + 1.5, 0, 1)[:, None]  # moves, rests, moves again
    gyr = waves(4, 0.1, 2.0, 4.0) * calm
    # Gravity seen from the turning sensor.
    gravity, down = np.empty((len(t), 3)), np.array([0.0, 0.0, 9.81])
    for i, (rate, step) in enumerate(zip(gyr, dt)):
        angle = np.linalg.norm(rate) * step
        if angle > 0:
            axis = rate / np.linalg.norm(rate)
            down = (down * np.cos(-angle) + np.cross(axis, down) * np.sin(-angle) + axis * (axis @ down) * (1 - np.cos(angle)))
        gravity[i] = down
    acc = gravity + waves(5, 0.3, 4.0, 5.0) * calm + rng.normal(0, 0.05, gravity.shape)
    gyr = gyr + rng.normal(0, 0.01, gyr.shape) + rng.uniform(-0.01, 0.01, 3)
    return np.concatenate([acc, gyr, dt[:, None]], 1).astype(np.float32)


def reference(path, frames):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["output"], {"input": frames[None], "h0": np.zeros((2, 1, 1, 200), np.float32)})[0][0]


def degrees(p, q):
    """Angle of the rotation between unit quaternions (steps, 4), either sign."""
    p, q = (x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=-1, keepdims=True) for x in (p, q))
    chord = np.minimum(np.linalg.norm(p - q, axis=-1), np.linalg.norm(p + q, axis=-1))
    return np.degrees(4 * np.arcsin(np.minimum(chord / 2, 1)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", metavar="RIANN", type=Path, help="folder of the installed package, with riann.onnx")
    parser.add_argument("model", metavar="MODEL.brook", type=Path)
    parser.add_argument("--brooklet", default="brooklet", help="the command (default: brooklet)")
    parser.add_argument("--seconds", type=float, default=60, help="length of the motion (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the motion (default: 0)")
    parser.add_argument("--bound", type=float, default=0.05, help="largest error allowed, degrees (default: 0.05, for float)")
    args = parser.parse_args()
    frames = motion(args.seconds, args.seed)
    want = reference(str(args.package / "riann.onnx"), frames)
    with tempfile.TemporaryDirectory() as folder:
        csv, npy = Path(folder) / "frames.csv", Path(folder) / "out.npy"
        np.savetxt(csv, frames, fmt="%.9g", delimiter=",")
        subprocess.run([args.brooklet, "eval", args.model, "--frames", csv, "--logits", npy], check=True)
        got = np.load(npy)
    error = degrees(got, want)
    turned = degrees(want[1:], want[:-1]).sum()
    length = np.abs(np.linalg.norm(got, axis=-1) - 1).max()
    rate = 1 / frames[:, 6]
    print(json.dumps({
        "steps": len(frames), "seconds": round(float(frames[:, 6].sum()), 2), "rate_hz": [round(float(rate.min())), round(float(rate.max()))],
        "turned_degrees": round(float(turned)), "largest_degrees": float(error.max()), "rms_degrees": float(np.sqrt((error**2).mean())),
        "length_error": float(length),
    }))
    if not error.max() <= args.bound:
        sys.exit(f"error {error.max():.4f} degrees, bound {args.bound}")


if __name__ == "__main__":
    main()
