#!/usr/bin/env python3
"""Brooklet against llama.cpp: the same shapes with random weights, in turn, so that what disturbs the machine disturbs both.

    against_llama_cpp.py --brooklet target/release/brooklet --llama-bench build/bin/llama-bench --models DIR mamba-130m:q4:Q4_0 mamba-130m:q8:Q8_0

A pairing is SHAPE:FORMAT:GGUF_TYPE and reads DIR/SHAPE.FORMAT.brook and DIR/SHAPE.GGUF_TYPE.gguf. The quoted ratio is the median of the
ratios of the pairs: brooklet's tokens per second over llama.cpp's. Python's standard library is enough.

With --device cuda both run on a GPU, where a decoded token's outputs come back to the host on either side, and brooklet's bits are the CPU's.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

DECODE, PREFILL = "decode", "prefill"
# Most tokens that `brooklet bench --batch` takes at once.
MOST_BATCH = 4096
# The formats that are set against each other when no pairing is named.
FORMATS = [("q4", "Q4_0"), ("q4", "Q4_K_M"), ("q8", "Q8_0")]
SHAPES = ["mamba-130m", "mamba2-130m", "granite-4.0-h-350m", "falcon-h1-0.5b"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairings", nargs="*", help="SHAPE:FORMAT:GGUF_TYPE, or SHAPE alone for q4:Q4_0, q4:Q4_K_M and q8:Q8_0 (default: four shapes)")
    parser.add_argument("--brooklet", required=True, type=program, help="program under test")
    parser.add_argument("--llama-bench", required=True, type=program)
    parser.add_argument("--models", required=True, type=Path, action="append", metavar="DIR", help="a folder of models; may be given again")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where both run (default cpu)")
    parser.add_argument("--threads", default="1,2", help="numbers of threads (default 1,2)")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of runs of each kind (default 5)")
    parser.add_argument("--steps", type=int, default=64, help="tokens decoded one by one in a run (default 64)")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a prefill; 0 to leave it out (default 512)")
    parser.add_argument("--depth", default="0", help="positions to decode from: needs models that remember as much (default 0)")
    parser.add_argument("--runs", type=int, default=3, help="runs inside each process, after one to warm up (default 3)")
    parser.add_argument("--brooklet-args", default="", help="more arguments of `brooklet bench`, such as '--batch 512'")
    parser.add_argument("--llama-args", default="", help="more arguments of llama-bench")
    parser.add_argument("--timeout", type=int, default=600, help="seconds that one process may take (default 600)")
    parser.add_argument("--json", type=Path, help="keep everything that was measured in this file")
    args = parser.parse_args()

    brooklet = Brooklet(args)
    depths = [int(depth) for depth in args.depth.split(",")]
    if args.device != "cpu":
        args.threads = "1"
        if depths != [0]:
            sys.exit("--depth: only on the CPU")
    results = []
    print(f"{'shape':<20} {'formats':<12} {'thr':>3} {'what':<16} {'brooklet':>11} {'llama.cpp':>11} {'ratio':>7} {'(least':>7} {'most)':>7} {'file MB':>15}")
    for shape, fmt, gguf_type in pairings(args.pairings):
        brook = find(args.models, f"{shape}.{fmt}.brook")
        gguf = find(args.models, f"{shape}.{gguf_type}.gguf")
        for threads in [int(n) for n in args.threads.split(",")]:
            for depth in depths:
                result = compare(args, brooklet, brook, gguf, threads, depth)
                result.update(shape=shape, format=fmt, gguf_type=gguf_type)
                results.append(result)
                show(result)
                if args.json:
                    write_json(args.json, {"settings": {k: str(v) for k, v in vars(args).items()}, "results": results})


def program(text):
    """A path that is not looked for in PATH."""
    path = Path(text).resolve()
    if not os.access(path, os.X_OK):
        raise argparse.ArgumentTypeError(f"{text} is not a program; README.md beside this script says how to build it")
    return path


def pairings(names):
    for name in names or SHAPES:
        parts = name.split(":")
        if len(parts) == 1:
            yield from ((name, fmt, gguf_type) for fmt, gguf_type in FORMATS)
        elif len(parts) == 3:
            yield tuple(parts)
        else:
            sys.exit(f"{name}: should be SHAPE:FORMAT:GGUF_TYPE, such as mamba-130m:q4:Q4_0, or a shape alone")


def find(folders, name):
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    sys.exit(f"{name}: not in {', '.join(map(str, folders))}; README.md beside this script says how to make it")


def compare(args, brooklet, brook, gguf, threads, depth):
    """Pairs of runs, whichever went second going first in the next one."""
    pairs = []
    for i in range(args.pairs):
        sides = [("brooklet", lambda: brooklet.run(brook, threads, depth)), ("llama", lambda: llama(args, gguf, threads, depth))]
        pairs.append({name: run() for name, run in (sides if i % 2 == 0 else reversed(sides))})
    kinds = [kind for kind in (DECODE, PREFILL) if all(kind in side for pair in pairs for side in pair.values())]
    return {
        "threads": threads, "depth": depth, "brook": str(brook), "gguf": str(gguf),
        "brook_bytes": brook.stat().st_size, "gguf_bytes": gguf.stat().st_size, "pairs": pairs,
        "summary": {kind: summary(pairs, kind) for kind in kinds},
    }


def summary(pairs, kind):
    ours, theirs = ([pair[side][kind] for pair in pairs] for side in ("brooklet", "llama"))
    ratios = [a / b for a, b in zip(ours, theirs)]
    return {
        "brooklet": statistics.median(ours), "llama": statistics.median(theirs), "ratio": statistics.median(ratios),
        "least_ratio": min(ratios), "most_ratio": max(ratios), "best_over_best": max(ours) / max(theirs),
    }


def show(result):
    formats = f"{result['format']}:{result['gguf_type']}"
    megabytes = f"{result['brook_bytes'] / 1e6:.1f}/{result['gguf_bytes'] / 1e6:.1f}"
    for kind, s in result["summary"].items():
        what = kind if result["depth"] == 0 else f"{kind} @{result['depth']}"
        print(f"{result['shape']:<20} {formats:<12} {result['threads']:>3} {what:<16} {s['brooklet']:>11.1f} {s['llama']:>11.1f} {s['ratio']:>7.2f}"
              f" {s['least_ratio']:>7.2f} {s['most_ratio']:>7.2f} {megabytes:>15}", flush=True)


def llama(args, gguf, threads, depth):
    """Tokens per second of llama-bench: medians of its runs."""
    where = ["-t", threads] if args.device == "cpu" else ["-ngl", 99]
    command = [args.llama_bench, "-m", gguf, *where, "-r", args.runs, "-n", args.steps, "-p", args.prompt if depth == 0 else 0, "-o", "json"]
    if depth:
        command += ["-d", depth]
    found = {}
    for test in output(command + args.llama_args.split(), args.timeout):
        found[DECODE if test["n_gen"] else PREFILL] = statistics.median(test["samples_ts"])
    return found


class Brooklet:
    """`brooklet bench`: tokens per second, medians of its runs."""

    def __init__(self, args):
        self.args = args

    def run(self, brook, threads, depth):
        return self.on_cpu(brook, threads, depth) if self.args.device == "cpu" else self.on_gpu(brook)

    def on_gpu(self, brook):
        args = self.args
        command = [args.brooklet, "bench", brook, "--json", "--device", args.device, "--runs", args.runs, "-n", args.steps]
        if args.prompt:
            command += ["--prompt", args.prompt, "--batch", min(args.prompt, MOST_BATCH)]
        report = output(command + args.brooklet_args.split(), args.timeout)
        found = {DECODE: report["steps_per_second"], "drawn": report["drawn_steps_per_second"], "kernels": report["device"]}
        if args.prompt:
            found[PREFILL] = report["prompt_tokens_per_second"]
        return found

    def on_cpu(self, brook, threads, depth):
        args = self.args
        command = [args.brooklet, "bench", brook, "--json", "--threads", threads, "--runs", args.runs, "-n", args.steps]
        if args.prompt:
            command += ["--prompt", args.prompt]
        if depth:
            # The first position is where the others are measured from.
            command += ["--depth", f"0,{depth}"]
        report = output(command + args.brooklet_args.split(), args.timeout)
        speed = next(s for s in report["speeds"] if s.get("threads", 1) == threads)
        steps = next((d["steps_per_second"] for d in speed["depths"] if d["position"] == depth))
        found = {DECODE: median(steps), "kernels": speed["kernels"]}
        if depth == 0 and args.prompt:
            found[PREFILL] = median(speed["prefill_per_second"])
        return found


def median(rate):
    return rate["median"] if isinstance(rate, dict) else rate


def output(command, timeout):
    command = [str(part) for part in command]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    if ran.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit status {ran.returncode}\n{ran.stderr[-2000:]}")
    try:
        return json.loads(ran.stdout)
    except ValueError as error:
        sys.exit(f"{' '.join(command)}: its output is not JSON ({error})\n{ran.stdout[:500]}")


def write_json(path, value):
    """Beside its place, then renamed: never half a file."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, suffix=".new") as file:
        json.dump(value, file, indent=1)
    os.replace(file.name, path)


if __name__ == "__main__":
    main()
