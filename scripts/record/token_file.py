"""Reads the sequences of a token file, as moekv score takes it: npz or HDF5 with token_ids, rectangular or with seq_lens."""
import h5py
import numpy as np

from model_facts import Refusal


def read_sequences(path):
    """A list of arrays of token ids."""
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path) as file:
                arrays = {name: file[name][()] for name in ("token_ids", "seq_lens") if name in file}
        else:
            with np.load(path) as file:
                arrays = {name: file[name] for name in ("token_ids", "seq_lens") if name in file.files}
    except (OSError, ValueError) as e:
        raise Refusal(path, f"cannot be read: {e}", "an npz or HDF5 file with token_ids is expected") from None
    tokens, lengths = arrays.get("token_ids"), arrays.get("seq_lens")
    if tokens is None or tokens.ndim not in (1, 2) or not np.issubdtype(tokens.dtype, np.integer):
        raise Refusal(path, "has no whole numbers token_ids [sequences, tokens] or [tokens]")
    if tokens.ndim == 2:
        return [row[:n] for row, n in zip(tokens, lengths if lengths is not None else [tokens.shape[1]] * len(tokens))]
    if lengths is None:
        return [tokens]
    if lengths.sum() != len(tokens):
        raise Refusal(path, f"seq_lens sum to {lengths.sum()}, token_ids has {len(tokens)} values")
    return np.split(tokens, np.cumsum(lengths)[:-1])
