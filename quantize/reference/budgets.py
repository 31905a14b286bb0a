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
    parser.add_argument("--lowest", type=float, default=3.0, help="bits per weight of the first budget")
    parser.add_argument("--highest", type=float, default=9.0, help="and of the last")
    parser.add_argument("--count", type=int, default=20)
    args = parser.parse_args()
    weights = parameters(args.checkpoint)
    missed = 0
    print(f"{'bits':>6} {'budget':>12} {'file':>12} {'share':>7} {'measured':>10} {'foretold':>10} {'seconds':>8}")
    with tempfile.TemporaryDirectory() as tmp:
        out, report, ledger = Path(tmp, "fit.brook"), Path(tmp, "fit.json"), args.ledger or Path(tmp, "ledger.json")
        for i in range(args.count):
            bits = args.lowest + (args.highest - args.lowest) * i / max(args.count - 1, 1)
            budget = int(weights * bits / 8)
            command = [args.brooklet, "quantize", args.checkpoint, "-o", out, "--fit", budget, "--calibration", args.calibration]
            command += ["--ledger", ledger, "--method", args.method, "--context", 512, "--stop", "--report", report]
            start = time.time()
            done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
            if done.returncode != 0:
                missed += 1
                print(f"{bits:6.3f} {budget:12} {done.stderr.strip()}", flush=True)
                continue
            size, said = out.stat().st_size, json.loads(report.read_text())
            is_finest = said["is_finest"]
            holds = size <= budget and (size >= LEAST_SHARE * budget or is_finest)
            missed += not holds
            verdict = "" if holds else "  MISSED"
            print(
                f"{bits:6.3f} {budget:12} {size:12} {size / budget:7.4f} {said['measured_loss']:10.3e} {said['predicted_loss']:10.3e} {time.time() - start:8.1f}"
                + ("  finest" if is_finest else "") + verdict,
                flush=True,
            )
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
