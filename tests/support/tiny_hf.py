"""Tiny checkpoints of each Hugging Face architecture as they are published, with weights that are a pure function of their names: no library needed.

The generator is the frozen one of numpy (MT19937, uniform), so a recorded loss of such a model stays comparable.
"""
import json
import math
import struct
import zlib

import numpy as np

VOCAB, HIDDEN, HEAD_DIM, WIDTH, TOKENS = 61, 32, 16, 32, 97
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
BASE = {"vocab_size": VOCAB, "hidden_size": HIDDEN, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": HEAD_DIM, "hidden_act": "silu",
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 128, "tie_word_embeddings": False, "intermediate_size": WIDTH,
        "attention_dropout": 0.0, "initializer_range": 0.02, "bos_token_id": 1, "eos_token_id": 2}
# Name -> (class of the library, element type, config.json)
CASES = {
    "mixtral": ("MixtralForCausalLM", "BF16", {"model_type": "mixtral", "num_hidden_layers": 2, "num_local_experts": 8, "num_experts_per_tok": 2,
                                               "sliding_window": 24}),
    "qwen2_moe": ("Qwen2MoeForCausalLM", "F16", {
        "model_type": "qwen2_moe", "num_hidden_layers": 3, "head_dim": 8, "num_experts": 6, "num_experts_per_tok": 2, "norm_topk_prob": False,
        "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40, "decoder_sparse_step": 1, "mlp_only_layers": [1], "qkv_bias": True,
        "use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1, "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", "BF16", {
        "model_type": "qwen3_moe", "num_hidden_layers": 2, "num_experts": 8, "num_experts_per_tok": 3, "norm_topk_prob": True,
        "moe_intermediate_size": 24, "decoder_sparse_step": 1, "mlp_only_layers": [], "attention_bias": False, "use_sliding_window": False,
        "sliding_window": None, "tie_word_embeddings": True, "rope_scaling": YARN}),
    "olmoe": ("OlmoeForCausalLM", "F32", {"model_type": "olmoe", "num_hidden_layers": 2, "head_dim": 8, "num_key_value_heads": 4, "num_experts": 8,
                                          "num_experts_per_tok": 3, "norm_topk_prob": False, "clip_qkv": None, "attention_bias": False}),
    "glm4_moe": ("Glm4MoeForCausalLM", "BF16", {
        "model_type": "glm4_moe", "num_hidden_layers": 3, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 2,
        "topk_group": 1, "norm_topk_prob": True, "routed_scaling_factor": 1.5, "moe_intermediate_size": 24, "first_k_dense_replace": 1,
        "use_qk_norm": True, "attention_bias": True, "partial_rotary_factor": 0.5}),
    "gpt_oss": ("GptOssForCausalLM", "BF16", {
        "model_type": "gpt_oss", "num_hidden_layers": 2, "num_local_experts": 6, "num_experts_per_tok": 3, "sliding_window": 16, "attention_bias": True,
        "layer_types": ["sliding_attention", "full_attention"], "swiglu_limit": 2.0,
        "rope_theta": 150000.0, "rope_scaling": {**YARN, "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False},
        "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router",
                                                                                     "model.embed_tokens", "lm_head"]}}),
}


def config_of(case):
    name, _, own = CASES[case]
    return {"architectures": [name], **BASE, **own}


def tokens():
    """[2, TOKENS] token ids."""
    return np.random.RandomState(7).randint(0, VOCAB, (2, TOKENS))


def uniform(name, shape):
    """Values in [-1, 1), by name."""
    return np.random.RandomState(zlib.crc32(name.encode())).random_sample(shape) * 2 - 1


def values_of(name, shape):
    """Weights large enough that attention, gates and losses vary from token to token."""
    u = uniform(name, shape)
    if name.endswith("norm.weight") or "norm" in name.rsplit(".", 2)[1]:
        return 1 + 0.3 * u
    if name.endswith("correction_bias"):
        return 0.2 * u
    if "bias" in name or name.endswith("sinks"):
        return 0.7 * u
    if name.endswith("embed_tokens.weight"):
        return 1.5 * u
    gain = 3.0 if ".gate.weight" in name or "router" in name else 1.6
    return gain * math.sqrt(3 / shape[-1]) * u


def attention_shapes(c, layer, biases, norms=None):
    at, q, kv = f"model.layers.{layer}.", c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    shapes = {at + "input_layernorm.weight": (HIDDEN,), at + "post_attention_layernorm.weight": (HIDDEN,), at + "self_attn.o_proj.weight": (HIDDEN, q)}
    for letter, width in (("q", q), ("k", kv), ("v", kv)):
        shapes[f"{at}self_attn.{letter}_proj.weight"] = (width, HIDDEN)
    for letter in biases:
        shapes[f"{at}self_attn.{letter}_proj.bias"] = ({"q": q, "o": HIDDEN}.get(letter, kv),)
    for letter, width in (("q", q), ("k", kv)) if norms else ():
        shapes[f"{at}self_attn.{letter}_norm.weight"] = (c["head_dim"] if norms == "head" else width,)
    return shapes


def ffn_shapes(at, width, names=("gate_proj", "up_proj", "down_proj")):
    return {f"{at}{name}.weight": (HIDDEN, width) if i == 2 else (width, HIDDEN) for i, name in enumerate(names)}


def layer_shapes(c, layer):
    """Names and shapes of a layer's tensors, as published; those of gpt-oss's experts before they are packed."""
    kind, at = c["model_type"], f"model.layers.{layer}.mlp."
    biases = {"qwen2_moe": "qkv", "glm4_moe": "qkv", "gpt_oss": "qkvo"}.get(kind, "")
    shapes = attention_shapes(c, layer, biases, {"qwen3_moe": "head", "glm4_moe": "head", "olmoe": "all heads"}.get(kind))
    if layer in c.get("mlp_only_layers", []) or layer < c.get("first_k_dense_replace", 0):
        return shapes | ffn_shapes(at, WIDTH)
    e = c.get("num_local_experts") or c.get("num_experts") or c["n_routed_experts"]
    if kind == "gpt_oss":
        return shapes | {f"model.layers.{layer}.self_attn.sinks": (c["num_attention_heads"],), at + "router.weight": (e, HIDDEN), at + "router.bias": (e,),
                         at + "experts.gate_up_proj": (e, 2 * WIDTH, HIDDEN), at + "experts.gate_up_proj_bias": (e, 2 * WIDTH),
                         at + "experts.down_proj": (e, HIDDEN, WIDTH), at + "experts.down_proj_bias": (e, HIDDEN)}
    names = ("gate_proj", "up_proj", "down_proj")
    if kind == "mixtral":
        at, names = f"model.layers.{layer}.block_sparse_moe.", ("w1", "w3", "w2")
    shapes[at + "gate.weight"] = (e, HIDDEN)
    for expert in range(e):
        shapes |= ffn_shapes(f"{at}experts.{expert}.", c.get("moe_intermediate_size", WIDTH), names)
    if kind == "glm4_moe":
        shapes |= {at + "gate.e_score_correction_bias": (e,)} | ffn_shapes(at + "shared_experts.", c["moe_intermediate_size"])
    if kind == "qwen2_moe":
        shapes |= {at + "shared_expert_gate.weight": (1, HIDDEN)} | ffn_shapes(at + "shared_expert.", c["shared_expert_intermediate_size"])
    return shapes


def mxfp4(name, shape):
    """Random blocks and scales that stand for matrices of a fitting size."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    groups = shape[-1] // 32
    return {name + "_blocks": ("U8", random.randint(0, 256, (*shape[:-1], groups, 16)).astype("u1")),
            name + "_scales": ("U8", random.randint(123, 126, (*shape[:-1], groups)).astype("u1"))}


def stored(values, element_type):
    """Values in an element type of safetensors; bfloat16 by truncation."""
    if element_type == "BF16":
        return (np.ascontiguousarray(values, "<f4").view("<u4") >> 16).astype("<u2")
    return values.astype({"F16": "<f2", "F32": "<f4"}[element_type])


def tensors_of(case):
    """Name -> (element type, values) of a checkpoint."""
    c, element_type = config_of(case), CASES[case][1]
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    if not c["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (VOCAB, HIDDEN)
    for layer in range(c["num_hidden_layers"]):
        shapes |= layer_shapes(c, layer)
    tensors = {}
    for name, shape in shapes.items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            tensors |= mxfp4(name, shape)
        else:
            kind = "F32" if name.endswith("correction_bias") else element_type
            tensors[name] = (kind, stored(values_of(name, shape), kind))
    return tensors


def fused(case):
    """The same weights as version 5 of the library holds them: the experts of a layer in two tensors."""
    tensors, out, c = tensors_of(case), {}, config_of(case)
    members = ("w1", "w3", "w2") if case == "mixtral" else ("gate_proj", "up_proj", "down_proj")
    n_experts = c.get("num_local_experts") or c.get("num_experts") or c["n_routed_experts"]
    for name, (kind, values) in tensors.items():
        if ".experts." not in name:
            out[name.replace("block_sparse_moe", "mlp")] = (kind, values)
        elif name.endswith(f".experts.0.{members[0]}.weight"):
            at = name.split(".0.w1")[0].split(".0.gate_proj")[0]
            gate, up, down = ([tensors[f"{at}.{e}.{member}.weight"][1] for e in range(n_experts)] for member in members)
            at = at.replace("block_sparse_moe", "mlp")
            out[at + ".gate_up_proj"] = (kind, np.concatenate([gate, up], axis=1))
            out[at + ".down_proj"] = (kind, np.stack(down))
    return out


def unpacked(case):
    """gpt-oss with its MXFP4 weights as bfloat16 [experts, in, out], as it is saved after training."""
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], "f4")
    values = np.concatenate([values, -values])
    tensors, out = tensors_of(case), {}
    for name, (kind, stored_values) in tensors.items():
        if name.endswith("_blocks"):
            scales = tensors[name.replace("_blocks", "_scales")][1]
            decoded = np.empty((*scales.shape, 32), "f4")
            for byte in range(16):
                for half in range(2):
                    decoded[..., 2 * byte + half] = values[(stored_values[..., byte] >> 4 * half) & 15] * 2.0 ** (scales.astype("f4") - 127)
            out[name.replace("_blocks", "")] = ("BF16", stored(decoded.reshape(*scales.shape[:2], -1).transpose(0, 2, 1), "BF16"))
        elif not name.endswith("_scales"):
            out[name] = (kind, stored_values)
    return out


def write_safetensors(path, tensors):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (kind, values) in tensors.items():
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, values in tensors.values():
            file.write(np.ascontiguousarray(values).tobytes())


def write_checkpoint(folder, case, shards=1, tensors=None, **changes):
    """A folder as it is published: config.json (with changed keys), safetensors in one file or in shards with their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**config_of(case), **changes}))
    tensors = list((tensors or tensors_of(case)).items())
    if shards == 1:
        return write_safetensors(folder / "model.safetensors", dict(tensors))
    places = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        write_safetensors(folder / file, dict(tensors[i::shards]))
        places |= {name: file for name, _ in tensors[i::shards]}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return None
