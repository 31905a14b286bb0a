#!/usr/bin/env python3
"""Compare Silero VAD in a .brook file with its own ONNX file in onnxruntime, over synthetic speech in noise.

Make the file with import_silero.py and `brooklet quantize`. Needs numpy, onnxruntime and the command espeak-ng."""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import wave
from pathlib import Path

import numpy as np

RATE, CHUNK, CONTEXT = 16000, 512, 64
SENTENCES = [
    ("en-us", 160, "The river rose in the night, and by morning the lower road was under water."),
    ("en-gb", 190, "Please check the gauge twice an hour and write the numbers down."),
    ("de", 150, "Der Bach führt heute kaum Wasser, doch morgen soll es regnen."),
    ("fr", 170, "La rivière descend lentement vers la plaine, entre les saules."),
    ("es", 180, "El agua baja despacio por el valle y nadie la escucha."),
    ("en-us+f3", 140, "Nobody had seen such a flood since the bridge was built."),
    ("ru", 160, "Вода поднялась за ночь, и дорога исчезла."),
    ("en-us+m7", 220, "Turn left at the mill, cross the brook, and wait for the bus."),
]


def say(voice, speed, text):
    wav = subprocess.run(["espeak-ng", "-v", voice, "-s", str(speed), "--stdout", text], check=True, capture_output=True).stdout
    # espeak-ng leaves the length in a piped header open.
    with wave.open(io.BytesIO(wav)) as file:
        rate = file.getframerate()
    samples = np.frombuffer(wav[44:len(wav) - len(wav) % 2], np.int16).astype(np.float64) / 32768
    at = np.arange(0, len(samples) - 1, rate / RATE)
    return np.interp(at, np.arange(len(samples)), samples)


def noise(count, rng):
    """White, low and babbling noise that swells and fades."""
    white = rng.normal(0, 1, count)
    brown = np.cumsum(rng.normal(0, 1, count))
    brown -= np.convolve(brown, np.ones(801) / 801, "same")
    swell = 1 + 0.8 * np.sin(2 * np.pi * np.arange(count) / RATE / 9.0)
    return (0.5 * white + brown / brown.std()) * swell


def sound(seconds, seed):
    rng = np.random.default_rng(seed)
    spoken = [say(*sentence) for sentence in SENTENCES]
    parts, level = [], [0.5, 0.2, 0.08, 0.03]
    while sum(map(len, parts)) < seconds * RATE:
        speech = spoken[int(rng.integers(len(spoken)))]
        parts += [np.zeros(int(rng.uniform(0.3, 2.5) * RATE)), speech * rng.choice(level) / np.abs(speech).max()]
    speech = np.concatenate(parts)
    # Quiet and loud noise by turns.
    loud = np.where(np.sin(2 * np.pi * np.arange(len(speech)) / RATE / 31.0) > 0, 0.002, 0.02)
    samples = np.clip(speech + noise(len(speech), rng) * loud, -1, 1).astype(np.float32)
    return samples[:len(samples) // CHUNK * CHUNK].reshape(-1, CHUNK)


def reference(path, chunks):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    state, context, rows = np.zeros((2, 1, 128), np.float32), np.zeros(CONTEXT, np.float32), []
    for chunk in chunks:
        heard = np.concatenate([context, chunk])
        p, state = session.run(None, {"input": heard[None], "state": state, "sr": np.array(RATE)})
        context = heard[-CONTEXT:]
        rows.append(p[0, 0])
    return np.array(rows, np.float64)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", metavar="SILERO_VAD", type=Path, help="folder of the installed package, with data/")
    parser.add_argument("model", metavar="MODEL.brook", type=Path)
    parser.add_argument("--brooklet", default="brooklet", help="the command (default: brooklet)")
    parser.add_argument("--seconds", type=float, default=120, help="length of the sound (default: 120)")
    parser.add_argument("--seed", type=int, default=0, help="of pauses, loudness and noise (default: 0)")
    parser.add_argument("--difference", type=float, default=1e-3, help="largest difference of probabilities allowed (default: 0.001, for float)")
    parser.add_argument("--agreement", type=float, default=0.995, help="least share of equal decisions (default: 0.995)")
    args = parser.parse_args()
    chunks = sound(args.seconds, args.seed)
    want = reference(str(args.package / "data" / "silero_vad.onnx"), chunks)
    with tempfile.TemporaryDirectory() as folder:
        csv, npy = Path(folder) / "frames.csv", Path(folder) / "out.npy"
        np.savetxt(csv, chunks, fmt="%.9g", delimiter=",")
        subprocess.run([args.brooklet, "eval", args.model, "--frames", csv, "--logits", npy], check=True)
        logits = np.load(npy).astype(np.float64)
    got = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    difference = np.abs(got - want)
    agreement = np.mean((got > 0.5) == (want > 0.5))
    print(json.dumps({
        "chunks": len(chunks), "seconds": len(chunks) * CHUNK / RATE, "speech_share": round(float(np.mean(want > 0.5)), 3),
        "largest_difference": float(difference.max()), "mean_difference": float(difference.mean()), "agreement": float(agreement),
    }))
    if not (difference.max() <= args.difference and agreement >= args.agreement):
        sys.exit(f"difference {difference.max():.2e}, bound {args.difference}; agreement {agreement:.4f}, bound {args.agreement}")


if __name__ == "__main__":
    main()
