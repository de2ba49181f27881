"""Reads what torch.save wrote (.pt, a zip with a pickle) without torch: plain containers, numbers, texts, and tensors as numpy arrays.

The pickle may name nothing but tensors and ordered dictionaries, so a file can run no code.
"""
import collections
import pickle
import zipfile

import numpy as np

from model_facts import Refusal

STORAGES = {"ByteStorage": "u1", "CharStorage": "i1", "ShortStorage": "<i2", "IntStorage": "<i4", "LongStorage": "<i8", "BoolStorage": "?",
            "HalfStorage": "<f2", "FloatStorage": "<f4", "DoubleStorage": "<f8"}
MOST_BYTES = 16 << 30


class StorageType:
    def __init__(self, name):
        self.type = np.dtype(STORAGES[name])


def rebuild_tensor(storage, offset, shape, strides, *_):
    """A tensor from a storage's array: shape and strides must lie inside it."""
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides)) if all(n > 0 for n in shape) else offset
    if min((offset, *shape, *strides), default=0) < 0 or (0 not in shape and last >= len(storage)) or len(shape) != len(strides):
        raise ValueError(f"tensor of shape {list(shape)} leaves its storage of {len(storage)} values")
    if 0 in shape:
        return np.empty(shape, storage.dtype)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, [s * storage.itemsize for s in strides]).copy()


class Reader(pickle.Unpickler):
    def __init__(self, archive, root):
        super().__init__(archive.open(f"{root}/data.pkl"))
        self._archive, self._root, self._storages = archive, root, {}

    def find_class(self, module, name):
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return rebuild_tensor
        if module == "torch" and name in STORAGES:
            return StorageType(name)
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        raise pickle.UnpicklingError(f"names {module}.{name}, which no recording has")

    def persistent_load(self, pid):
        """A storage: ("storage", its type, its member, its device, its length)."""
        _, kind, key, _, length = pid
        if key not in self._storages:
            member = f"{self._root}/data/{key}"
            if self._archive.getinfo(member).file_size > MOST_BYTES:
                raise ValueError(f"{member} is too large")
            self._storages[key] = np.frombuffer(self._archive.read(member), kind.type)
            if len(self._storages[key]) < length:
                raise ValueError(f"{member} is cut off")
        return self._storages[key]


def load(path):
    """What was saved; tensors (of any device) are arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise ValueError("no data.pkl inside")
            return Reader(archive, pickles[0].rsplit("/", 1)[0]).load()
    except OSError as e:
        raise Refusal(path, f"cannot be read: {e.strerror or e}") from None
    except (zipfile.BadZipFile, pickle.UnpicklingError, ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError, RecursionError, MemoryError) as e:
        raise Refusal(path, f"is no sound file of torch.save: {e}", "is the file complete?") from None
