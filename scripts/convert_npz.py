#!/usr/bin/python3
"""Turns tinymoe's weights (an npz whose member `config` is JSON) into a model file for moekv score (configs/models/README.md)."""
import argparse
import json
import sys

import numpy as np

from model_file import new_model_file

# Dataset of a layer -> member of the npz behind "b.<layer>.", and how its axes move to [.., out, in].
LAYER = {
    "attn/norm": ("n1.w", None),
    "attn/q": ("q.weight", None),
    "attn/k": ("k.weight", None),
    "attn/v": ("v.weight", None),
    "attn/o": ("o.weight", None),
    "ffn/norm": ("n2.w", None),
    "ffn/router": ("gate.weight", None),
    "ffn/experts_gate": ("w1", (0, 2, 1)),
    "ffn/experts_up": ("w3", (0, 2, 1)),
    "ffn/experts_down": ("w2", (0, 2, 1)),
}


def attributes(config, name):
    return {
        "name": name, "license": "Apache-2.0", "source": "trained for moekv",
        "converter": "scripts/convert_npz.py", "n_layers": config["layers"], "hidden": config["hidden"], "vocab": 256,
        "n_heads": config["q_heads"], "n_kv_heads": config["kv_heads"], "head_dim": config["head_dim"], "norm_eps": config["norm_eps"],
        "max_positions": config["context"], "rope_style": "interleaved", "rope_theta": 10000.0, "n_experts": config["experts"],
        "top_k": config["top_k"], "gate_score": "softmax", "gate_order": "pre", "gate_renormalise": 1,
    }


def write(file, name, values):
    chunks = (1, *values.shape[1:]) if values.ndim == 3 else values.shape
    file.create_dataset(name, data=values, chunks=chunks, shuffle=True, compression="gzip", compression_opts=9)


def convert(arrays, target, name):
    config = json.loads(str(arrays["config"]))
    with new_model_file(target, attributes(config, name)) as file:
        write(file, "embed", arrays["e.weight"])
        write(file, "head", arrays["h.weight"])
        write(file, "norm", arrays["n.w"])
        for layer in range(config["layers"]):
            for dataset, (member, axes) in LAYER.items():
                values = arrays[f"b.{layer}.{member}"]
                write(file, f"layers/{layer}/{dataset}", values if axes is None else np.ascontiguousarray(values.transpose(axes)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: scripts/convert_npz.py model.npz tinymoe.model.h5")
    parser.add_argument("source", help="npz with the weights")
    parser.add_argument("target", help="model file to write")
    parser.add_argument("--name", default="tinymoe", help="name of the model (default: %(default)s)")
    args = parser.parse_args()
    try:
        with np.load(args.source) as arrays:
            if "config" not in arrays.files:
                raise ValueError("has no member 'config', so it is not an npz of tinymoe's kind")
            convert(arrays, args.target, args.name)
    except (OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"{args.source}: error: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
