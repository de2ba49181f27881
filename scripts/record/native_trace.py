"""Writes a native routing trace (*.moekv.h5) request by request; memory stays at one request."""
import datetime
import os
from pathlib import Path

import h5py
import numpy as np

from model_facts import Refusal

MOST_BYTE_EXPERTS = 255  # ids of a byte leave room for the value that says "absent"
HALF_LIMIT = 65504.0


def to_half(values, where):
    """binary16, in which a trace holds weights, logits, q, k and v."""
    values = np.asarray(values, "f4")
    if not np.all(np.abs(values) <= HALF_LIMIT):
        raise Refusal(where, "has a value that is not finite or too large for 16 bits", "record without q, k, v, or look at the model's activations")
    return values.astype("f2")


class NativeTrace:
    """A trace that appears at `path` when `close` is called; as a context, when its block ends without an error.

    Example: with NativeTrace("out.moekv.h5", facts, "record_vllm.py") as trace: trace.append(prompt_tokens, ids)
    """

    def __init__(self, path, facts, generator, source="", workload="recorded", license_text=""):
        self.path, self.facts = Path(path), facts
        self._unfinished = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        self.attention_scale = 0.0  # factor of q.k; 0 stands for 1/sqrt(head dimension)
        self._requests, self._offsets, self._columns = [], [0], {}
        self._ids_type = "u1" if facts.n_experts <= MOST_BYTE_EXPERTS else "u2"
        try:
            self._file = h5py.File(self._unfinished, "w", libver=("earliest", "v110"))
        except OSError as e:
            raise Refusal(path, f"cannot be written: {e}") from None
        self._texts = {"format": "moekv-trace", "created_utc": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
                       "generator": generator, "source": source, "license": license_text, "model_name": facts.name, "workload": workload, "order": "request"}

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is None:
            return self.close()
        self._file.close()
        self._unfinished.unlink(missing_ok=True)
        return None

    def append(self, prompt_tokens, ids, **arrays):
        """A request of len(ids) tokens. ids [tokens, MoE layers, top_k], -1 = absent. Each request has the same of: weights (as ids), logits
        [tokens, MoE layers, experts], token_ids [tokens], and q, k, v after the rotation [tokens, layers, heads, head dimension]."""
        ids = np.asarray(ids)
        n_tokens, where = len(ids), f"{self.path}: request {len(self._requests)}"
        if ids.shape[1:] != (len(self.facts.moe_layers), self.facts.top_k) or n_tokens == 0:
            raise Refusal(where, f"experts of shape {list(ids.shape)} are not [tokens, {len(self.facts.moe_layers)} MoE layers, {self.facts.top_k}]",
                          "does config.json belong to the recording?")
        self._check_ids(ids, where)
        absent = np.iinfo(self._ids_type).max
        self._add("routing/expert_ids", np.where(ids < 0, absent, ids).astype(self._ids_type))
        self._add("tokens/position", np.arange(n_tokens, dtype="u4"))
        self._add("tokens/phase", (np.arange(n_tokens) >= prompt_tokens).astype("u1"))
        for name, values in arrays.items():
            if name == "token_ids":
                self._add("tokens/token_id", np.asarray(values, "i4"))
            else:
                self._add(("kv/" if name in "qkv" else "routing/") + name, to_half(values, f"{where}: {name}"))
        if len({len(data) - self._offsets[-1] for data in self._columns.values()}) != 1:
            raise Refusal(where, "has other arrays than the requests before, or another number of rows in some")
        self._requests.append((min(prompt_tokens, n_tokens), max(0, n_tokens - prompt_tokens)))
        self._offsets.append(self._offsets[-1] + n_tokens)

    def _check_ids(self, ids, where):
        if ids.max() >= self.facts.n_experts:
            raise Refusal(where, f"expert {ids.max()} is not below the model's {self.facts.n_experts}", "are these ids of replicas (physical experts)?")
        ordered = np.sort(ids, axis=-1)
        repeated = ((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)).any(axis=-1)
        if repeated.any():
            token, layer = np.argwhere(repeated)[0]
            raise Refusal(where, f"token {token} has an expert twice in layer {self.facts.moe_layers[layer]}: {ids[token, layer].tolist()}",
                          "layers without experts must not be in the recording")

    def _add(self, name, rows):
        if name not in self._columns:
            row_bytes = max(1, rows[0].nbytes)
            chunk = int(np.clip(2 ** round(np.log2(max(1, (1 << 20) / row_bytes))), 16, 16384))
            self._columns[name] = self._file.create_dataset(name, (0, *rows.shape[1:]), rows.dtype, maxshape=(None, *rows.shape[1:]),
                                                            chunks=(chunk, *rows.shape[1:]), shuffle=True, compression="gzip", compression_opts=4)
        data = self._columns[name]
        if data.shape[1:] != rows.shape[1:]:
            raise Refusal(f"{self.path}:/{name}", f"rows of shape {list(rows.shape[1:])} after rows of {list(data.shape[1:])}")
        data.resize(len(data) + len(rows), axis=0)
        data[len(data) - len(rows):] = rows

    def _write_model(self):
        f, kv = self.facts, {name: self._columns[f"kv/{name}"].shape[2:] for name in "qkv" if f"kv/{name}" in self._columns}
        heads, kv_heads = (kv["q"][0], kv["k"][0]) if kv else (f.n_heads, f.n_kv_heads)
        model = self._file.create_group("model")
        model.attrs.update(
            n_layers=f.n_layers, n_moe_layers=len(f.moe_layers), hidden=f.hidden, n_heads=heads, n_kv_heads=kv_heads, rope_theta=f.rope_theta,
            head_dim_k=kv["k"][1] if kv else f.head_dim, head_dim_v=kv["v"][1] if kv else f.head_dim, attn="gqa", kv_lora_rank=0, rope_dim=0,
            n_experts=f.n_experts, top_k=f.top_k, n_shared=f.n_shared, score_func=f.score, softmax_order=f.order, norm_topk=int(f.renormalise),
            scale=f.scale, n_group=f.n_group, topk_group=f.topk_group)
        model["moe_layer_ids"] = np.array(f.moe_layers, "i2")
        if kv:
            self._file["kv/layer_ids"] = np.arange(self._columns["kv/q"].shape[1], dtype="i2")
            self._file["kv"].attrs.update(rope_applied=np.uint8(1), scale=self.attention_scale)

    def close(self):
        """Writes what the requests add up to and puts the file in place."""
        if not self._requests:
            self._file.close()
            self._unfinished.unlink(missing_ok=True)
            raise Refusal(self.path, "the recording has no request with tokens")
        weights, logits = ("routing/weights" in self._columns, "routing/logits" in self._columns)
        self._file.attrs.update(version=np.array([1, 0], "i4"), routing_level=3 if logits else 1 if weights else 0, seed=0,
                                weight_kind=self.facts.weight_kind() if weights else "none", **self._texts)
        self._write_model()
        requests, n = self._file.create_group("requests"), len(self._requests)
        requests["prompt_len"], requests["output_len"] = np.array(self._requests, "u4").T
        requests["token_offset"] = np.array(self._offsets, "u8")
        requests["arrival_ns"], requests["session"], requests["domain"] = np.full(n, -1, "i8"), np.full(n, -1, "i4"), np.zeros(n, "u2")
        requests["domain_names"] = np.array(["recorded"], object).astype(h5py.string_dtype())
        self._file.close()
        os.replace(self._unfinished, self.path)
