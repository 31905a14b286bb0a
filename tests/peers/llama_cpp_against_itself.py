#!/usr/bin/env python3
"""How often llama.cpp agrees with itself: the prompts of smollm2.py, greedy, by builds and switches that all compute the same model.

    python llama_cpp_against_itself.py --model SmolLM2-135M-Instruct.Q4_1.gguf --llama-tokens native=./llama_tokens avx2=./llama_tokens_avx2

The first program without switches is what the others are compared with; each program is one build of llama_tokens.cpp. What differs between two runs is the
order of sums and where numbers are rounded to 16 or 8 bits, nothing else: the yardstick for how much of a greedy text two right programs share.
"""

import argparse
import itertools
import pathlib
import subprocess

from smollm2 import PROMPTS, TOKENS

# A cache of f32 is rounded to 16 bits where attention is flash.
SWITCHES = ["", "threads=2", "ubatch=1", "repack=0", "flash=0", "flash=0 kv=f32"]


def continuations(program, model, switches):
    """The greedy tokens behind each prompt."""
    texts = b"".join(prompt.encode() + b"\0" for prompt in PROMPTS)
    run = subprocess.run([program, model, str(TOKENS), *switches.split()], input=texts, capture_output=True, check=True)
    return [line.split("|")[1].split() for line in run.stdout.decode().split("\n")[:len(PROMPTS)]]


def equal(a, b):
    return sum(x == y for x, y in zip(a, b))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--llama-tokens", nargs="+", required=True, help="builds, as NAME=PROGRAM")
    args = parser.parse_args()
    builds = [build.split("=", 1) for build in args.llama_tokens]
    runs = {}
    for (name, program), switches in itertools.product(builds, SWITCHES):
        runs[f"{name} {switches}".strip()] = continuations(program, args.model, switches)
        first = next(iter(runs.values()))
        latest = list(runs)[-1]
        print(f"{equal(runs[latest], first):2} of {len(PROMPTS)} prompts: {latest}", flush=True)
    # Runs that give the same tokens everywhere are one way to compute, not several.
    ways = {}
    for name, tokens in runs.items():
        ways.setdefault(str(tokens), []).append(name)
    shared = [equal(runs[a[0]], runs[b[0]]) for a, b in itertools.combinations(ways.values(), 2)]
    print(f"{len(runs)} runs, {len(ways)} different; prompts equal in pairs of different ones: least {min(shared, default=len(PROMPTS))}, "
          f"mean {sum(shared) / max(len(shared), 1):.2f}, most {max(shared, default=len(PROMPTS))}")
    for names in ways.values():
        print("the same tokens:", "; ".join(names))


if __name__ == "__main__":
    main()
