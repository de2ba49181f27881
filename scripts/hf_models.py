"""What a Hugging Face checkpoint is as a model file (configs/models/README.md): attributes, and which tensors make which datasets.

Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE, GLM-4.5 (glm4_moe) and gpt-oss, as published and as transformers 4 and 5 save them.
"""
import dataclasses
import math
import re
from collections.abc import Callable

import numpy as np

from hf_checkpoint import Refusal

MXFP4_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], "f4")
MXFP4_GROUP = 32  # values that share a scale


def to_bf16(values):
    """bfloat16 as uint16, of values that it holds exactly."""
    return (np.ascontiguousarray(values, "<f4").view("<u4") >> 16).astype("<u2")


def decode_mxfp4(blocks, scales):
    """[rows, groups, 16] bytes of two values each, low half first, times 2^(scale - 127), as bfloat16 [rows, 32 groups]: exact."""
    values = np.stack([MXFP4_VALUES[blocks & 15], MXFP4_VALUES[blocks >> 4]], axis=-1).reshape(*scales.shape, MXFP4_GROUP)
    return to_bf16(np.ldexp(values, scales[..., None].astype("i4") - 127).reshape(len(blocks), -1))


@dataclasses.dataclass
class Dataset:
    """A dataset of the model file. `parts` give it in one piece, or one piece for each index of its first axis."""

    name: str
    shape: tuple
    type: str  # F32, F16 or BF16
    parts: list[Callable]
    where: str  # it comes from


class Config:
    """config.json with every value checked as it is asked for."""

    def __init__(self, path, values):
        self.path, self.values = path, values

    def refuse(self, what, advice=""):
        raise Refusal(self.path, what, advice)

    def number(self, name, default=None, least=1, kind=int, most=2**40):
        value = self.values.get(name)
        value = default if value is None else value
        if value is None:
            self.refuse(f"{name} is missing")
        if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int) or not least <= value <= most:
            self.refuse(f"{name} is {value!r}, expected a number from {least} to {most}")
        return kind(value)

    def table(self, name):
        """An object of numbers, texts and flags, or nothing."""
        value = self.values.get(name)
        if value is not None and not (isinstance(value, dict) and all(isinstance(v, (int, float, str, type(None))) for v in value.values())):
            self.refuse(f"{name} is {value!r}, expected an object of plain values")
        return value or {}

    def flag(self, name, default=None):
        value = self.values.get(name, default)
        if not isinstance(value, bool):
            self.refuse(f"{name} is {value!r}, expected true or false")
        return value

    def must_be(self, name, allowed):
        if self.values.get(name, allowed[0]) not in allowed:
            self.refuse(f"{name} is {self.values[name]!r}, which the model file cannot say", f"supported: {', '.join(map(repr, allowed))}")


class Plan:
    """Attributes of the root and of the layers, and the datasets, of the model file that a checkpoint becomes."""

    def __init__(self, checkpoint):
        self.checkpoint, self.config = checkpoint, Config(checkpoint.folder / "config.json", checkpoint.config)
        c = self.config
        self.hidden, self.n_layers = c.number("hidden_size"), c.number("num_hidden_layers", most=1024)
        self.n_heads = c.number("num_attention_heads")
        self.n_kv_heads = c.number("num_key_value_heads", self.n_heads)
        self.head_dim = c.number("head_dim", self.hidden // self.n_heads)
        c.must_be("hidden_act", ["silu"])
        self.attributes = {"n_layers": self.n_layers, "hidden": self.hidden, "vocab": c.number("vocab_size"), "n_heads": self.n_heads,
                           "n_kv_heads": self.n_kv_heads, "head_dim": self.head_dim, "norm_eps": c.number("rms_norm_eps", least=0, kind=float)}
        self.layers = [{} for _ in range(self.n_layers)]
        self.datasets = []
        self.ignored = [r".*\.rotary_emb\.inv_freq"]
        self._add_rope()
        self.whole("embed", "model.embed_tokens.weight", [self.attributes["vocab"], self.hidden])
        self.whole("norm", "model.norm.weight", [self.hidden])
        if c.flag("tie_word_embeddings", False):
            self.ignored.append(r"lm_head\.weight")
        else:
            self.whole("head", "lm_head.weight", [self.attributes["vocab"], self.hidden])

    def _add_rope(self):
        c = self.config
        values = {"rope_theta": c.values.get("rope_theta"), "partial_rotary_factor": c.values.get("partial_rotary_factor"),
                  **c.table("rope_scaling"), **c.table("rope_parameters")}
        rope, kind = Config(c.path, values), values.get("rope_type", values.get("type", "default"))
        if kind not in ("default", "yarn"):
            c.refuse(f"rope scaling is of type {kind!r}", "supported: default, yarn")
        positions = c.number("max_position_embeddings")
        self.attributes |= {"rope_style": "half", "rope_theta": rope.number("rope_theta", kind=float),
                            "rope_dim": int(self.head_dim * rope.number("partial_rotary_factor", 1, 0, float, most=1))}
        if kind == "yarn":
            original = rope.number("original_max_position_embeddings", positions)
            factor = rope.number("factor", positions / original, kind=float)
            positions = max(positions, int(factor * original))
            self.attributes |= {"rope_scaling": "yarn", "yarn_factor": factor, "yarn_original_tokens": original,
                                "yarn_beta_fast": rope.number("beta_fast", 32, 0, float), "yarn_beta_slow": rope.number("beta_slow", 1, 0, float),
                                "yarn_attention_factor": yarn_attention_factor(rope, factor), "yarn_truncate": int(rope.flag("truncate", True))}
        self.attributes["max_positions"] = positions

    def add_gate(self, score="softmax", order="pre", renormalise=True, **others):
        """The routed experts, whose number has one of three names, and how a token chooses among them."""
        names = ("num_local_experts", "num_experts", "n_routed_experts")
        self.n_experts = self.config.number(next((name for name in names if name in self.config.values), names[0]))
        self.attributes |= {"n_experts": self.n_experts, "top_k": self.config.number("num_experts_per_tok"), "gate_score": score,
                            "gate_order": order, "gate_renormalise": int(renormalise), **others}

    def add_attention(self, layer, biases="", norms=None):
        """Norms, projections, their biases (of the letters `biases`) and the norms of q and k (values of each head's norm: `norms`)."""
        at, source = f"layers/{layer}/", f"model.layers.{layer}."
        q, kv = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        self.whole(at + "attn/norm", source + "input_layernorm.weight", [self.hidden])
        self.whole(at + "ffn/norm", source + "post_attention_layernorm.weight", [self.hidden])
        for letter, shape in {"q": [q, self.hidden], "k": [kv, self.hidden], "v": [kv, self.hidden], "o": [self.hidden, q]}.items():
            self.whole(f"{at}attn/{letter}", f"{source}self_attn.{letter}_proj.weight", shape)
            if letter in biases:
                self.whole(f"{at}attn/{letter}_bias", f"{source}self_attn.{letter}_proj.bias", shape[:1])
        for letter, width in {"q": q, "k": kv}.items() if norms else ():
            self.whole(f"{at}attn/{letter}_norm", f"{source}self_attn.{letter}_norm.weight", [self.head_dim if norms == "head" else width])

    def add_ffn(self, to, source, width):
        """A dense FFN: datasets `to`gate, up, down."""
        for name in ("gate", "up", "down"):
            shape = [self.hidden, width] if name == "down" else [width, self.hidden]
            self.whole(to + name, f"{source}{name}_proj.weight", shape)

    def add_experts(self, to, source, width, names=("gate_proj", "up_proj", "down_proj")):
        """Routed experts: a matrix each under `source`<e>.<name>, or all in gate_up_proj and down_proj."""
        shapes = {"gate": [width, self.hidden], "up": [width, self.hidden], "down": [self.hidden, width]}
        if source + "gate_up_proj" in self.checkpoint:
            fused = self.checkpoint.take(source + "gate_up_proj", [self.n_experts, 2 * width, self.hidden])
            self.split(to + "experts_gate", shapes["gate"], fused, lambda expert: expert[:width])
            self.split(to + "experts_up", shapes["up"], fused, lambda expert: expert[width:])
            self.split(to + "experts_down", shapes["down"], self.checkpoint.take(source + "down_proj", [self.n_experts, *shapes["down"]]))
            return
        for (name, shape), member in zip(shapes.items(), names):
            tensors = [self.checkpoint.take(f"{source}{e}.{member}.weight", shape) for e in range(self.n_experts)]
            if len({tensor.type for tensor in tensors}) > 1:
                raise Refusal(tensors[0].where, "the experts of this layer are of several element types")
            self.datasets.append(Dataset(f"{to}experts_{name}", (self.n_experts, *shape), tensors[0].type, [t.values for t in tensors], tensors[0].where))

    def whole(self, to, name, shape, view=lambda values: values):
        """A dataset that is one tensor, or a view of it."""
        tensor = self.checkpoint.take(name, shape)
        shape = view(np.broadcast_to(np.int8(0), tensor.shape)).shape
        self.datasets.append(Dataset(to, shape, tensor.type, [lambda: view(tensor.values())], tensor.where))

    def split(self, to, shape, tensor, view=lambda values: values):
        """A dataset that is a view of each index of a tensor's first axis."""
        parts = [lambda e=e: view(tensor.values()[e]) for e in range(self.n_experts)]
        self.datasets.append(Dataset(to, (self.n_experts, *shape), tensor.type, parts, tensor.where))

    def refuse_unused(self):
        """A tensor that the plan leaves out would be a part of the model that is lost."""
        unknown = [name for name in self.checkpoint.unused() if not any(re.fullmatch(pattern, name) for pattern in self.ignored)]
        if unknown:
            raise Refusal(self.checkpoint.folder, f"has {len(unknown)} tensors that a {self.config.values['model_type']} model of this config.json does not have: "
                          + ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else ""), "without them it would be another model")


def yarn_attention_factor(rope, factor):
    """Factor of cos and sin; 0 stands for the usual 0.1 ln(factor) + 1."""
    if rope.values.get("attention_factor") is not None:
        return rope.number("attention_factor", least=0, kind=float)
    if not (rope.values.get("mscale") and rope.values.get("mscale_all_dim")):
        return 0.0
    scale, scale_all = (0.1 * rope.number(name, least=0, kind=float) * math.log(factor) + 1 for name in ("mscale", "mscale_all_dim"))
    return scale / scale_all
