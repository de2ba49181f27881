"""Writes a small sound trace in the native format with h5py, from the format's description alone, so that the reader is tested against foreign writers."""
import h5py
import numpy as np

N_EXPERTS, TOP_K, MODEL_LAYERS = 8, 2, 3
MOE_LAYERS = [1, 2]
PROMPTS, OUTPUTS = [20, 7], [4, 9]

# A configuration that replays such a trace on two ranks.
CONFIG = """\
name: tiny
model:
  name: tiny
  layers: {count: 3, pattern: [full], dense: [0]}
  hidden: 64
  n_heads: 4
  n_kv_heads: 2
  head_dim: 16
  gate: {n_experts: 8, top_k: 2}
trace: {path: tiny.moekv.h5}
cluster: {ranks: 2}
placement: {layout: expert}
"""


def write(path, seed=1):
    """Requests of 24 and 16 tokens; two distinct experts with weights that sum to one per token and layer."""
    random = np.random.default_rng(seed)
    lengths = np.add(PROMPTS, OUTPUTS)
    n_tokens = int(lengths.sum())
    with h5py.File(path, "w", libver=("earliest", "v110")) as file:
        file.attrs.update(format="moekv-trace", version=np.array([1, 0], "i4"), created_utc="2024-01-01T00:00:00Z", generator="trace_file.py", source="test",
                          license="Apache-2.0", model_name="tiny", workload="test", order="request", routing_level=1, weight_kind="renorm", seed=seed)
        model = file.create_group("model")
        model.attrs.update(n_layers=MODEL_LAYERS, n_moe_layers=len(MOE_LAYERS), hidden=64, n_heads=4, n_kv_heads=2, head_dim_k=16, head_dim_v=16, attn="gqa",
                           kv_lora_rank=0, rope_dim=0, n_experts=N_EXPERTS, top_k=TOP_K, n_shared=0, score_func="softmax", softmax_order="pre", norm_topk=1,
                           scale=1.0, n_group=1, topk_group=1)
        model["moe_layer_ids"] = np.array(MOE_LAYERS, "i2")
        requests = file.create_group("requests")
        requests["arrival_ns"] = np.array([0, 1000], "i8")
        requests["prompt_len"] = np.array(PROMPTS, "u4")
        requests["output_len"] = np.array(OUTPUTS, "u4")
        requests["session"] = np.array([0, 1], "i4")
        requests["domain"] = np.array([0, 0], "u2")
        requests["token_offset"] = np.array([0, *np.cumsum(lengths)], "u8")
        requests["domain_names"] = np.array(["text"], object).astype(h5py.string_dtype())
        file["tokens/position"] = np.concatenate([np.arange(n) for n in lengths]).astype("u4")
        file["tokens/phase"] = np.concatenate([np.arange(n) >= p for n, p in zip(lengths, PROMPTS)]).astype("u1")
        ids = np.argsort(random.random((n_tokens, len(MOE_LAYERS), N_EXPERTS)), axis=2)[:, :, :TOP_K]
        first = random.random((n_tokens, len(MOE_LAYERS), 1)) * 0.4 + 0.5
        chunks = (n_tokens, len(MOE_LAYERS), TOP_K)
        file.create_dataset("routing/expert_ids", data=ids.astype("u1"), chunks=chunks, compression="gzip", shuffle=True)
        file.create_dataset("routing/weights", data=np.concatenate([first, 1 - first], axis=2).astype("f2"), chunks=chunks, compression="gzip", shuffle=True)
