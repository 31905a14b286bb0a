#!/usr/bin/env python3
"""The five-fold table of the watch classifier: float, 8 and 4 bits, streamed by Brooklet.

    train_watch.py --seeds 3 --out runs/watch --export-csv runs/watch/csv    # five checkpoints and their unseen recordings
    watch_table.py runs/watch --brooklet target/release/brooklet

Each fold's checkpoint is quantized by `brooklet quantize` and judged by `brooklet eval --recordings` on the subjects it has
not learned from: the state is reset at each recording's start, and the class is read at the end of each 2 s window (50 %
overlap). Prints accuracy per fold, bytes of weights and state.
"""
import argparse
import json
import subprocess
import tempfile
from pathlib import Path

FORMATS = ["f32", "q8", "q4"]


def run(*command):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder with fold0 .. fold4 (checkpoints) and csv/fold0 .. csv/fold4 (recordings)")
    parser.add_argument("--brooklet", default="brooklet", help="the brooklet program")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        for form in FORMATS:
            accuracies = []
            for fold in range(5):
                model = Path(tmp) / f"fold{fold}-{form}.brook"
                run(args.brooklet, "quantize", args.runs / f"fold{fold}", "-o", model, "--format", form)
                result = json.loads(run(args.brooklet, "eval", model, "--recordings", args.runs / "csv" / f"fold{fold}", "--json"))
                accuracies.append(100 * result["window_accuracy"])
            sheet = json.loads(run(args.brooklet, "inspect", model, "--json"))["memory"]
            folds = " ".join(f"{a:6.2f}" for a in accuracies)
            print(f"{form:>4}: {folds}   mean {sum(accuracies) / 5:6.2f} %   weights {sheet['weights_bytes']:,} B, state {sheet['state_bytes']:,} B")


if __name__ == "__main__":
    main()
