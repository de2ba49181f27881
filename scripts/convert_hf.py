#!/usr/bin/python3
"""Turns a Hugging Face checkpoint (a folder with config.json and safetensors) into a model file for moekv score (configs/models/README.md).

Reads piece by piece: memory stays small, whatever the size of the model. Element types stay as they are; MXFP4 becomes bfloat16.
"""
import argparse
import sys
from pathlib import Path

import numpy as np

from hf_architectures import ARCHITECTURES, plan_of
from hf_checkpoint import TYPES, Checkpoint, Refusal
from model_file import new_model_file

FINITE_LIMITS = {"F16": (0x7FFF, 0x7C00), "BF16": (0x7FFF, 0x7F80), "F32": (0x7FFFFFFF, 0x7F800000)}  # magnitude bits, first one not finite
PIECE_VALUES = 1 << 24  # checked and written at once


def pieces(values):
    """Slices of the first axis with at most PIECE_VALUES values, at least one row."""
    rows = max(1, PIECE_VALUES * len(values) // values.size)
    return [slice(begin, begin + rows) for begin in range(0, len(values), rows)]


def finite(values, element_type):
    mask, limit = FINITE_LIMITS[element_type]
    return bool(np.all((values.view(f"<u{values.itemsize}") & mask) < limit))


def write_dataset(file, dataset):
    if dataset.type not in FINITE_LIMITS:
        raise Refusal(dataset.where, f"has elements of type {dataset.type}", "F32, F16, BF16 and MXFP4 (gpt-oss) are supported: convert a checkpoint in one of these")
    out = file.create_dataset(dataset.name, dataset.shape, TYPES[dataset.type])
    if dataset.type == "BF16":
        out.attrs["encoding"] = "bf16"
    whole = len(dataset.parts) == 1
    for i, part in enumerate(dataset.parts):
        values = part().reshape(dataset.shape if whole else dataset.shape[1:])
        for piece in pieces(values):
            block = np.ascontiguousarray(values[piece])
            if not finite(block, dataset.type):
                raise Refusal(dataset.where, "has a value that is not finite", "fetch the checkpoint again")
            out[piece if whole else (i, piece)] = block


def write_model(target, plan, facts):
    with new_model_file(target, {**facts, **plan.attributes}) as file:
        for layer, attributes in enumerate(plan.layers):
            file.create_group(f"layers/{layer}").attrs.update(attributes)
        for dataset in plan.datasets:
            write_dataset(file, dataset)


def convert(folder, target, facts=None):
    """Writes the model file `target`; it appears when it is complete. `facts` are texts: name, license, source_uri, ..."""
    checkpoint = Checkpoint(folder)
    plan = plan_of(checkpoint)
    name = Path(checkpoint.config.get("_name_or_path") or Path(folder).resolve().name).name
    facts = {"name": name, "source": f"Hugging Face checkpoint, {checkpoint.config['model_type']}", "converter": "scripts/convert_hf.py", **(facts or {})}
    try:
        write_model(target, plan, facts)
    except OSError as e:
        raise Refusal(target, f"cannot be written: {e}") from None


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"architectures (model_type): {', '.join(ARCHITECTURES)}\n\nexample:\n  scripts/convert_hf.py Qwen3-30B-A3B qwen3-30b.model.h5 --license Apache-2.0\n"
        "  moekv score configs/examples/score.yaml model.path=qwen3-30b.model.h5 trace.tokens=tokens.npz")
    parser.add_argument("folder", help="folder of the checkpoint")
    parser.add_argument("target", help="model file to write")
    for option, text in (("name", "name of the model (default: the checkpoint's)"), ("license", "licence of the weights"),
                         ("source-uri", "where the checkpoint is from"), ("source-commit", "its revision")):
        parser.add_argument(f"--{option}", help=f"{text}, stored")
    args = parser.parse_args()
    facts = {key: value for key in ("name", "license", "source_uri", "source_commit") if (value := getattr(args, key)) is not None}
    try:
        convert(args.folder, args.target, facts)
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
