#!/usr/bin/env python3
"""Make tiny random checkpoints, and the logits that an independent implementation gives for them.

The family tests compare Brooklet's float path with these files, so nothing here may share code with Brooklet:
language models are built and run by transformers (fixtures_language.py, with the specifications in
fixtures_recurrent.py and fixtures_hybrid.py), and the sensor classifiers (our own convention, which transformers does
not know) by the short f64 reference in fixtures_sensor.py, written from the equations.

Every tensor is drawn at random, the ones that a fresh model leaves at 0 or 1 included, and each fixture is refused
unless shuffling any single tensor, or any single expert, changes the logits: a reader that drops or reorders one
cannot pass. The same holds for the keys and conventions that each specification lists. Shapes are odd on purpose
(hardly a multiple of a tile, heads no power of two), since that is where padding goes wrong.

Each fixture is a folder:

    config.json, *.safetensors    the checkpoint
    tokens.json | frames.csv      the input: {"tokens": [..]}, or a frame a line, no header, channels as in config.json
    expected.npy                  f32 (steps, vocab) | (steps, classes): the logits after each step, from an empty state

The weights depend only on the seed and the fixture's name, so a fresh seed is a fresh test, and --only gives the same
files as a whole run. Needs numpy, safetensors, torch and transformers 5; for aTENNuate what fixtures_attenuate.py says.
"""

import argparse
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np

from fixtures_attenuate import ATTENUATE, make_attenuate
from fixtures_draw import sensitivity, weakest_tensor
from fixtures_hybrid import HYBRID
from fixtures_language import CACHE_BOUND, DIFFER_BOUND, make_language
from fixtures_recurrent import RECURRENT
from fixtures_native import NATIVE, make_native
from fixtures_sensor import SENSOR, make_sensor

SIZE_LIMIT = 150_000  # bytes a fixture may take, as it is kept in the repository (at the default length)
SENSITIVITY_BOUND = 100  # largest factor by which a small change of all weights may grow on its way to the logits
DRAWS = 3  # chance may leave an expert without a token, or two experts nearly tied; more often it is the specification

LANGUAGE = RECURRENT | HYBRID


def make(name, out_dir, seed, steps):
    """Writes one fixture, checks it, prints its line. Returns its size."""
    folder = out_dir / name
    # An older run may have left other shards, so start afresh; but never wipe a folder that is not ours.
    if folder.exists() and not (folder / "expected.npy").exists():
        sys.exit(f"{folder} exists and is not a fixture")

    for draw in range(DRAWS):
        shutil.rmtree(folder, ignore_errors=True)
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())] + [draw] * (draw > 0))
        try:
            return make_once(name, folder, steps, rng)
        except AssertionError as refusal:
            print(refusal, flush=True)
    shutil.rmtree(folder)
    sys.exit(f"{name}: refused {DRAWS} times")


def make_once(name, folder, steps, rng):
    if name in SENSOR:
        whole, stepped, weights = make_sensor(name, SENSOR[name], folder, steps, rng)
    elif name in ATTENUATE:
        whole, stepped, weights = make_attenuate(name, ATTENUATE[name], folder, steps, rng)
    else:
        maker, spec = (make_native, NATIVE[name]) if name in NATIVE else (make_language, LANGUAGE[name])
        whole, stepped, weights = maker(spec, folder, steps, rng)

    expected = whole()
    assert len(expected) == steps or name in ATTENUATE  # which answers late, and takes as many more
    largest = np.abs(expected).max()
    cache = np.abs(stepped() - expected).max() / largest if stepped else 0.0  # some references have no step of their own
    tensor, effect = weakest_tensor(whole, weights, expected)
    factor = sensitivity(whole, weights, expected)
    np.save(folder / "expected.npy", expected.astype(np.float32))
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes for its owner alone
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{name:22} {size:7} bytes  max|logit| {largest:5.2f}  whole-stepped {cache:.1e}"
          f"  sensitivity {factor:4.1f}  weakest tensor {effect:.1e} {tensor}", flush=True)

    assert np.isfinite(expected).all() and 0.5 <= largest <= 20, f"{name}: logits out of range"
    assert cache < CACHE_BOUND, f"{name}: the reference disagrees with itself by {cache:.1e}"
    assert effect > DIFFER_BOUND, f"{name}: {tensor} hardly matters"
    assert factor < SENSITIVITY_BOUND, f"{name}: rounding decides"
    assert steps > 64 or size < SIZE_LIMIT, f"{name}: {size} bytes"
    return size


def main():
    parser = argparse.ArgumentParser(
        description="Make tiny random checkpoints of every family, with the logits of an independent implementation.",
        epilog="""examples:
  make_fixtures.py tests/fixtures/families               the files kept in the repository (seed 0)
  make_fixtures.py fresh --seed 7                        all of them with other weights and inputs
  make_fixtures.py fresh --seed 7 --only mamba2-g2       one of them, the same files as in the whole run""",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", metavar="OUT_DIR", type=Path, nargs="?", help="gets one folder a fixture")
    parser.add_argument("--seed", type=int, default=0, help="of weights and inputs (default: 0)")
    parser.add_argument("--only", metavar="NAME", action="append", help="make this one alone; may be repeated")
    parser.add_argument("--tokens", type=int, default=64, help="steps, tokens or frames (default: 64)")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    args = parser.parse_args()

    names = list(LANGUAGE) + list(NATIVE) + list(SENSOR) + list(ATTENUATE)
    if args.list:
        print("\n".join(names))
        return
    if args.out_dir is None:
        parser.error("OUT_DIR is missing")
    if unknown := set(args.only or []) - set(names):
        parser.error(f"no such fixture: {', '.join(sorted(unknown))}")
    if args.tokens < 2 or args.seed < 0:
        parser.error("--tokens must be at least 2 and --seed not negative")

    chosen = [name for name in names if not args.only or name in args.only]
    if any(name not in SENSOR for name in chosen):
        import torch
        import transformers

        torch.set_num_threads(1)  # a fixed order of sums, hence the same bytes on every run
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
    total = sum(make(name, args.out_dir, args.seed, args.tokens) for name in chosen)
    print(f"{len(chosen)} fixtures, {total} bytes")


if __name__ == "__main__":
    main()
