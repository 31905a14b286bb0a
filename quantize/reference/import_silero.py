#!/usr/bin/env python3
"""Put Silero VAD's weights (PyPI `silero-vad`, MIT) beside a config that `brooklet quantize` reads.

The package holds the 16 kHz model as safetensors. Nothing is fetched; give the installed package's folder."""

import argparse
import json
import shutil
from pathlib import Path

CONFIG = {
    "model_type": "silero_vad", "name": "Silero VAD, 16 kHz", "source": "https://pypi.org/project/silero-vad", "license": "MIT",
    "sampling_rate": 16000,
    # A frame is a chunk of new samples; as many of the chunk before come first.
    "num_samples": 512, "context_size": 64,
    # Spectrum: window and hop, samples reflected behind the end.
    "n_fft": 256, "hop_length": 128, "pad": 64,
    "conv_channels": [128, 64, 64, 128], "conv_strides": [1, 2, 2, 1], "hidden_size": 128,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", metavar="SILERO_VAD", type=Path, help="folder of the installed package, with data/")
    parser.add_argument("out_dir", metavar="OUT_DIR", type=Path, help="gets config.json and model.safetensors")
    args = parser.parse_args()
    args.out_dir.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(args.package / "data" / "silero_vad_16k.safetensors", args.out_dir / "model.safetensors")
    (args.out_dir / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    print(f"{args.out_dir}: next: brooklet quantize {args.out_dir} -o silero.brook")


if __name__ == "__main__":
    main()
