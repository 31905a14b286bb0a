#!/usr/bin/env python3
"""Fits a checkpoint to budgets in a row, and says whether each file is within its budget and fills it.

    budgets.py CHECKPOINT --calibration sample.txt --brooklet target/release/brooklet                # 20 budgets from 3 to 9 bits a weight
    budgets.py CHECKPOINT --calibration sample.txt --count 4 --ledger ckpt.json --method gptq        # fewer, as the files will be made

What is measured of each matrix is kept in the ledger, so that all budgets but the first take a file's writing and one measurement. A file may be
smaller than 0.985 of its budget only where every matrix is in its finest format. Prints a table; ends with 1 if a budget was missed.
"""
import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LEAST_SHARE = 0.985


def parameters(checkpoint):
    """Numbers in the checkpoint's .safetensors files, from their headers."""
    count = 0
    for path in sorted(Path(checkpoint).glob("*.safetensors")):
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        count += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--brooklet", default="brooklet", help="the brooklet program")
    parser.add_argument("--ledger", type=Path, help="keeps what is measured; without it, as long as this runs")
    parser.add_argument("--method", default="nearest", help="nearest (sizes do not depend on it), weighted or gptq")
    parser.add_argument("--passes", help="changes before rounding, for all files alike, such as none or smooth,hadamard; without it as the command has them")
    parser.add_argument("--lowest", type=float, default=3.0, help="bits per weight of the first budget")
    parser.add_argument("--highest", type=float, default=9.0, help="and of the last")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--uniform", action="store_true", help="budgets are the sizes of files in one format; says how much less is lost")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        fit = Fit(args, Path(tmp))
        missed = against_uniform(fit) if args.uniform else in_a_row(args, fit)
    sys.exit(missed > 0)


class Fit:
    """Fits the checkpoint to budgets, one after the other."""

    def __init__(self, args, folder):
        self.out, self.report, self.args = folder / "fit.brook", folder / "fit.json", args
        self.ledger = args.ledger or folder / "ledger.json"

    def quantize(self, *options):
        """Runs the command with these options and what all files have in common."""
        args = self.args
        command = [args.brooklet, "quantize", args.checkpoint, "-o", self.out, *options]
        command += ["--calibration", args.calibration, "--context", 512, "--stop"]
        command += ["--passes", args.passes] if args.passes else []
        return subprocess.run([str(part) for part in command], capture_output=True, text=True)

    def in_one(self, format):
        """The size of a file in one format, as who wants no mix makes it: whole tables in the order of ids."""
        self.quantize("--format", format, "--embedding", format, "--method", "nearest").check_returncode()
        return self.out.stat().st_size

    def to(self, budget):
        """The report of a file within so many bytes, and its size; or what the command said instead."""
        done = self.quantize("--fit", budget, "--ledger", self.ledger, "--method", self.args.method, "--report", self.report)
        if done.returncode != 0:
            return None, done.stderr.strip()
        return json.loads(self.report.read_text()), self.out.stat().st_size


def in_a_row(args, fit):
    weights, missed = parameters(args.checkpoint), 0
    print(f"{'bits':>6} {'budget':>12} {'file':>12} {'share':>7} {'measured':>10} {'foretold':>10} {'seconds':>8}")
    for i in range(args.count):
        bits = args.lowest + (args.highest - args.lowest) * i / max(args.count - 1, 1)
        budget, start = int(weights * bits / 8), time.time()
        said, size = fit.to(budget)
        holds = said and size <= budget and (size >= LEAST_SHARE * budget or said["is_finest"])
        missed += not holds
        if said is None:
            print(f"{bits:6.3f} {budget:12} {size}", flush=True)
            continue
        losses = f"{said['measured_loss']:10.3e} {said['predicted_loss']:10.3e}"
        notes = ("  finest" if said["is_finest"] else "") + ("" if holds else "  MISSED")
        print(f"{bits:6.3f} {budget:12} {size:12} {size / budget:7.4f} {losses} {time.time() - start:8.1f}{notes}", flush=True)
    return missed


def against_uniform(fit):
    """Files in one format are rounded to the nearest, so that --method nearest compares like with like."""
    smallest, problem = fit.to(int(parameters(fit.args.checkpoint) * 4.5 / 8))
    if smallest is None:
        sys.exit(problem)
    # What no format of weights changes: activations of 8 bits, and what a stream's memory holds.
    floor = smallest["activations_loss"] + smallest["memory_loss"]
    print(f"of all losses, {floor:.3e} are not the weights'")
    print(f"{'one format':>10} {'bytes':>12} {'its loss':>10} {'mixed bytes':>12} {'loss':>10} {'less':>6} {'less of the weights':>20}")
    for uniform in sorted(smallest["uniform"], key=lambda u: u["bytes"]):
        budget = fit.in_one(uniform["format"])
        said, size = fit.to(budget)
        loss, alike = said["measured_loss"], uniform["loss"]
        less, of_weights = 1 - loss / alike, 1 - (loss - floor) / (alike - floor)
        print(f"{uniform['format']:>10} {budget:12} {alike:10.3e} {size:12} {loss:10.3e} {less:6.1%} {of_weights:20.1%}", flush=True)
    return 0


if __name__ == "__main__":
    main()
