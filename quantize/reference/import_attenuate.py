#!/usr/bin/env python3
"""Turn aTENNuate's weights (`weights.pt`, Apache-2.0) into a checkpoint that `brooklet quantize` reads.

The sizes are those of the tensors. Nothing is fetched; give the file. Needs torch and safetensors."""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file


def sizes(tensors):
    """The arguments of the package's Denoiser that these tensors belong to."""
    mixes = []  # (in, out, frames) of every level's way down
    while (mix := tensors.get(f"down_ssms.{len(mixes)}.1.weight")) is not None:
        mixes.append(mix.shape)
    return {
        "in_channels": mixes[0][0],
        "channels": [mix[1] for mix in mixes],
        "resample_factors": [mix[2] for mix in mixes],
        "pre_conv": "hid_ssms.0.0.weight" in tensors,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", metavar="WEIGHTS.PT", type=Path, help="the state_dict, as torch.save wrote it")
    parser.add_argument("out_dir", metavar="OUT_DIR", type=Path, help="gets config.json and model.safetensors")
    parser.add_argument("--num-coeffs", type=int, default=16, help="modes that share a step size (default: 16)")
    parser.add_argument("--sampling-rate", type=int, default=16000, help="samples per second (default: 16000)")
    args = parser.parse_args()
    tensors = torch.load(args.weights, map_location="cpu", weights_only=True)
    if "down_ssms.0.1.weight" not in tensors:
        parser.error(f"{args.weights} holds no tensor down_ssms.0.1.weight; is it a Denoiser's state_dict?")
    modes = len(next(w for key, w in tensors.items() if key.endswith("log_dt")))
    if modes % args.num_coeffs:
        parser.error(f"{args.weights} has layers of {modes} modes, no multiple of --num-coeffs {args.num_coeffs}")
    config = {
        "model_type": "attenuate", **sizes(tensors), "num_coeffs": args.num_coeffs, "repeat": modes // args.num_coeffs,
        "sampling_rate": args.sampling_rate,
        "name": "aTENNuate", "source": f"{args.weights.name} of the Python package attenuate", "license": "Apache-2.0",
    }
    args.out_dir.mkdir(parents=True, exist_ok=True)
    save_file({k: w.float().contiguous() for k, w in tensors.items()}, args.out_dir / "model.safetensors", metadata={"format": "pt"})
    (args.out_dir / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    print(f"{args.out_dir}: next: brooklet quantize {args.out_dir} -o attenuate.brook")


if __name__ == "__main__":
    main()
