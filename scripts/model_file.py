"""Writing a model file for moekv score (configs/models/README.md): what every converter shares."""
import contextlib
import os
from pathlib import Path

import h5py


@contextlib.contextmanager
def new_model_file(target, attributes):
    """The file `target`, open for its datasets; it appears when it is complete, whoever else writes it at the same time."""
    unfinished = f"{target}.{os.getpid()}.part"
    try:
        with h5py.File(unfinished, "w", libver=("earliest", "v110")) as file:
            for name, value in {"format": "moekv-model", "format_version": 1, **attributes}.items():
                file.attrs[name] = value
            yield file
        os.replace(unfinished, target)
    finally:
        Path(unfinished).unlink(missing_ok=True)
