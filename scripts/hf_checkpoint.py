"""Reads a Hugging Face checkpoint with numpy alone: config.json and safetensors files, whole or in shards, mapped and not loaded."""
import json
import math
from pathlib import Path

import numpy as np

MOST_HEADER_BYTES = 100 << 20
# Element types by their names in safetensors; those without a numpy type cannot be converted.
TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1"}
SIZES = {**{name: np.dtype(code).itemsize for name, code in TYPES.items()},
         "BOOL": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "I32": 4, "U32": 4, "F64": 8, "I64": 8, "U64": 8}


class Refusal(Exception):
    """Input that cannot be used: where, what is wrong, what helps."""

    def __init__(self, where, what, advice=""):
        super().__init__(f"{where}: error: {what}" + (f"\n  {advice}" if advice else ""))


def read_json(path, kind):
    """The object in a JSON file."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as e:
        raise Refusal(path, f"cannot be read: {e.strerror}", f"{kind} is expected here") from None
    except (ValueError, RecursionError) as e:
        raise Refusal(path, f"is no JSON: {e}", "is the file complete?") from None
    if not isinstance(value, dict):
        raise Refusal(path, "is no JSON object")
    return value


class Tensor:
    """One tensor of a safetensors file. `type` is the name of its element type."""

    def __init__(self, path, name, entry, data_begin, data_bytes):
        where = f"{path}:{name}"
        try:
            self.type, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            sound = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            raise Refusal(where, "header has no dtype, shape and data_offsets of a tensor", "is this a safetensors file?")
        if self.type not in SIZES:
            raise Refusal(where, f"element type {self.type!r} is unknown")
        self.path, self.name, self.shape = path, name, tuple(shape)
        self.begin = data_begin + begin
        expected = math.prod(self.shape) * SIZES[self.type]
        if end < begin or end > data_bytes:
            raise Refusal(where, f"ends at byte {end} of {data_bytes} bytes of data", "the file is cut off: fetch it again")
        if end - begin != expected:
            raise Refusal(where, f"has {end - begin} bytes, shape {list(self.shape)} of {self.type} needs {expected}")

    @property
    def where(self):
        return f"{self.path}:{self.name}"

    def values(self):
        """The values, mapped from the file; bfloat16 as uint16."""
        if self.type not in TYPES:
            raise Refusal(self.where, f"has elements of type {self.type}", "F32, F16, BF16 and MXFP4 (gpt-oss) are supported: convert a checkpoint in one of these")
        if math.prod(self.shape) == 0:
            raise Refusal(self.where, f"is empty: shape {list(self.shape)}")
        return np.memmap(self.path, TYPES[self.type], "r", self.begin, self.shape)


def read_header(path):
    """Tensors of one safetensors file, by name."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MOST_HEADER_BYTES):
                raise Refusal(path, f"is no safetensors file, or cut off: header of {length} bytes in a file of {size}", "fetch it again (is it a Git LFS pointer?)")
            header = json.loads(file.read(length))
    except OSError as e:
        raise Refusal(path, f"cannot be read: {e.strerror}", "is a shard missing?") from None
    except (ValueError, RecursionError) as e:
        raise Refusal(path, f"header is no JSON: {e}", "fetch it again") from None
    if not isinstance(header, dict):
        raise Refusal(path, "header is no JSON object", "is this a safetensors file?")
    return {name: Tensor(path, name, entry, 8 + length, size - 8 - length) for name, entry in header.items() if name != "__metadata__"}


class Checkpoint:
    """A folder with config.json and *.safetensors. Tensors are asked for by name and shape; `unused` lists those that nobody asked for."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.config = read_json(self.folder / "config.json", "a checkpoint's config.json")
        self._tensors, self._used = {}, set()
        for path, names in self._shards().items():
            for name, tensor in read_header(path).items():
                if name in self._tensors:
                    raise Refusal(tensor.where, f"is also in {self._tensors[name].path}", "remove the file that does not belong to the checkpoint")
                self._tensors[name] = tensor
            for name in names - self._tensors.keys():
                raise Refusal(path, f"has no tensor {name}, which the index promises", "fetch the shards and their index again")

    def _shards(self):
        """Path of each shard -> names that the index places there."""
        index = self.folder / "model.safetensors.index.json"
        if not index.exists():
            paths = sorted(self.folder.glob("*.safetensors"))
            if not paths:
                raise Refusal(self.folder, "has no *.safetensors", "checkpoints of other kinds (.bin, .pth, .gguf): save them as safetensors first")
            return {path: set() for path in paths}
        shards = {}
        places = read_json(index, "an index of shards").get("weight_map")
        for name, file in places.items() if isinstance(places, dict) else ():
            if not isinstance(file, str) or Path(file).name != file:
                raise Refusal(index, f"places {name} in {file!r}, which is no file of this folder")
            shards.setdefault(self.folder / file, set()).add(name)
        if not shards:
            raise Refusal(index, "has no weight_map")
        return shards

    def __contains__(self, name):
        return name in self._tensors

    def take(self, name, shape):
        """The tensor, which must have this shape."""
        if name not in self._tensors:
            raise Refusal(self.folder, f"has no tensor {name}", "is the checkpoint complete, and is its config.json its own?")
        tensor = self._tensors[name]
        self._used.add(name)
        if tensor.shape != tuple(shape):
            raise Refusal(tensor.where, f"has shape {list(tensor.shape)}, config.json asks for {list(shape)}")
        return tensor

    def unused(self):
        return sorted(self._tensors.keys() - self._used)
