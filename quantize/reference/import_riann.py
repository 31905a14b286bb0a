#!/usr/bin/env python3
"""Turn RIANN's weights (PyPI `riann`, Apache-2.0) into a checkpoint that `brooklet quantize` reads.

RIANN estimates the attitude of an inertial sensor at any sampling rate: two GRU layers of 200, input acceleration, angular rate
and the time since the last sample, output a unit quaternion. Its package holds one ONNX file. Nothing is fetched; give the
installed package's folder. Needs numpy, onnx and safetensors."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

CHANNELS = ["acc_x", "acc_y", "acc_z", "gyr_x", "gyr_y", "gyr_z", "dt"]
UNITS = ["m/s^2"] * 3 + ["rad/s"] * 3 + ["s"]


def read(path):
    """Weights by the names of the graph, and the nodes of each kind in order."""
    graph = onnx.load(path).graph
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    nodes = {}
    for node in graph.node:
        nodes.setdefault(node.op_type, []).append(node)
        if node.op_type == "Constant":
            values[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return values, nodes


def reorder(parts):
    """(3 * hidden, ..) in ONNX's order z, r, n to PyTorch's r, z, n."""
    z, r, n = np.split(parts, 3)
    return np.ascontiguousarray(np.concatenate([r, z, n]).astype(np.float32))


def convert(path):
    values, nodes = read(path)
    attribute = lambda node, name: next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), None)
    tensors, hidden = {}, 0
    for layer, gru in enumerate(nodes["GRU"]):
        if attribute(gru, "linear_before_reset") != 1 or attribute(gru, "direction") not in (None, b"forward"):
            sys.exit(f"{path}: GRU {layer} is not of PyTorch's kind")
        hidden = attribute(gru, "hidden_size")
        w, r, b = (values[name][0] for name in gru.input[1:4])
        tensors[f"rnn.weight_ih_l{layer}"], tensors[f"rnn.weight_hh_l{layer}"] = reorder(w), reorder(r)
        tensors[f"rnn.bias_ih_l{layer}"], tensors[f"rnn.bias_hh_l{layer}"] = map(reorder, np.split(b, 2))
    weight, bias = (values[name] for name in nodes["Conv"][0].input[1:3])
    tensors["head.weight"] = np.ascontiguousarray(weight[:, :, 0].astype(np.float32))
    tensors["head.bias"] = bias.astype(np.float32)
    mean, std = (values[nodes[kind][0].input[1]].ravel() for kind in ("Sub", "Div"))
    config = {
        "model_type": "brooklet_rnn", "rnn": "GRU", "hidden_size": hidden, "num_layers": len(nodes["GRU"]), "bias": True,
        # Trained at many rates: the channel dt says which; this one is for reports.
        "input": {"channels": CHANNELS, "units": UNITS, "rate_hz": 200.0,
                  "mean": mean.astype(float).tolist(), "std": std.astype(float).tolist()},
        "output": {"values": ["w", "x", "y", "z"], "units": ["1"] * 4, "unit_norm": True},
        "card": {"name": "RIANN", "source": "the Python package riann 0.2.0", "license": "Apache-2.0"},
    }
    return config, tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", metavar="RIANN", type=Path, help="folder of the installed package, with riann.onnx")
    parser.add_argument("out_dir", metavar="OUT_DIR", type=Path, help="gets config.json and model.safetensors")
    args = parser.parse_args()
    config, tensors = convert(args.package / "riann.onnx")
    args.out_dir.mkdir(parents=True, exist_ok=True)
    (args.out_dir / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(tensors, args.out_dir / "model.safetensors", metadata={"format": "pt"})
    print(f"{args.out_dir}: {sum(t.size for t in tensors.values())} parameters; next: brooklet quantize {args.out_dir} -o riann.brook")


if __name__ == "__main__":
    main()
