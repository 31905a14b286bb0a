#!/usr/bin/env python3
"""Turn Silero VAD's weights (PyPI `silero-vad`, MIT) into a checkpoint that `brooklet quantize` reads.

They are taken from the package's 16 kHz ONNX file: the safetensors file beside it (6.2.3) holds another training, whose answers
differ. Tensors get that file's names. Nothing is fetched; give the installed package's folder. Needs onnx and safetensors."""

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

CONFIG = {
    "model_type": "silero_vad", "name": "Silero VAD, 16 kHz", "source": "the Python package silero-vad 6.2.3", "license": "MIT",
    "sampling_rate": 16000,
    # A frame is a chunk of new samples; as many of the chunk before come first.
    "num_samples": 512, "context_size": 64,
    # Spectrum: window and hop, samples reflected behind the end.
    "n_fft": 256, "hop_length": 128, "pad": 64,
    "conv_channels": [128, 64, 64, 128], "conv_strides": [1, 2, 2, 1], "hidden_size": 128,
}


NAMES = {
    "model.stft.forward_basis_buffer": "stft_conv.weight",
    **{f"model.encoder.{i}.reparam_conv.{kind}": f"conv{i + 1}.{kind}" for i in range(4) for kind in ("weight", "bias")},
    **{f"model.decoder.rnn.{name}": f"lstm_cell.{name}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")},
    **{f"model.decoder.decoder.2.{kind}": f"final_conv.{kind}" for kind in ("weight", "bias")},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", metavar="SILERO_VAD", type=Path, help="folder of the installed package, with data/")
    parser.add_argument("out_dir", metavar="OUT_DIR", type=Path, help="gets config.json and model.safetensors")
    args = parser.parse_args()
    args.out_dir.mkdir(parents=True, exist_ok=True)
    graph = onnx.load(args.package / "data" / "silero_vad_16k_op15.onnx").graph
    weights = {t.name: np.ascontiguousarray(numpy_helper.to_array(t)) for t in graph.initializer}
    tensors = {ours: weights[theirs] for theirs, ours in NAMES.items()}
    save_file(tensors, args.out_dir / "model.safetensors", metadata={"format": "pt"})
    (args.out_dir / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    print(f"{args.out_dir}: next: brooklet quantize {args.out_dir} -o silero.brook")


if __name__ == "__main__":
    main()
