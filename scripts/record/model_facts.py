"""What a trace says about its model, from the config.json of a Hugging Face checkpoint of any MoE architecture with the usual keys."""
import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hf_checkpoint import Refusal, read_json  # noqa: E402

POST_SOFTMAX = {"dbrx", "gpt_oss", "mixtral"}
SIGMOID = {"deepseek_v3", "dots1", "glm4_moe", "kimi_k2", "minimax_m2"}


@dataclasses.dataclass
class Facts:
    """Attributes of /model; `moe_layers` are the layers with routed experts."""

    name: str
    n_layers: int
    hidden: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    rope_theta: float
    moe_layers: list
    n_experts: int
    top_k: int
    n_shared: int = 0
    score: str = "softmax"
    order: str = "pre"
    renormalise: bool = True
    scale: float = 1.0
    n_group: int = 1
    topk_group: int = 1

    def weight_kind(self):
        """How the weights of a choice sum."""
        if self.renormalise or self.order == "post":
            return "renorm"
        return "raw_softmax" if self.score == "softmax" else "sigmoid"


def first_of(config, *keys, default=None):
    return next((config[key] for key in keys if config.get(key) is not None), default)


def moe_layers_of(config, n_layers):
    """Layers with routed experts: all but the first ones, every n-th, or all but those listed."""
    first, dense = first_of(config, "first_k_dense_replace", default=0), first_of(config, "mlp_only_layers", default=[])
    stride = first_of(config, "decoder_sparse_step", default=1)
    every = first_of(config, "moe_layer_freq", default=1)
    pattern = every if isinstance(every, list) else [l % every == 0 for l in range(n_layers)]
    return [l for l in range(n_layers) if l >= first and l not in dense and (l + 1) % stride == 0 and pattern[l]]


def facts_of(config, where, name=None):
    """Facts of a config.json that was read. Throws Refusal where a needed key is missing."""
    config = config.get("text_config") or config
    kind = config.get("model_type", "")
    needed = {"n_layers": ("num_hidden_layers",), "hidden": ("hidden_size",), "n_heads": ("num_attention_heads",),
              "n_experts": ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
              "top_k": ("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_k")}
    values = {field: first_of(config, *keys) for field, keys in needed.items()}
    for field, keys in needed.items():
        if not isinstance(values[field], int) or values[field] < 1:
            raise Refusal(where, f"has no whole number {' or '.join(keys)}", "is it the config.json of a mixture of experts?")
    if values["n_layers"] > 1024:
        raise Refusal(where, f"num_hidden_layers is {values['n_layers']}, at most 1024 are possible")
    score = "sigmoid" if config.get("scoring_func") == "sigmoid" or kind in SIGMOID else "softmax"
    return Facts(
        name or Path(config.get("_name_or_path") or Path(where).resolve().parent.name).name, **values,
        n_kv_heads=first_of(config, "num_key_value_heads", default=values["n_heads"]),
        head_dim=first_of(config, "head_dim", default=values["hidden"] // values["n_heads"]),
        rope_theta=float(first_of(config, "rope_theta", default=(config.get("rope_parameters") or {}).get("rope_theta", 10000))),
        moe_layers=moe_layers_of(config, values["n_layers"]), n_shared=first_of(config, "n_shared_experts", default=0), score=score,
        order="post" if kind in POST_SOFTMAX else "pre", renormalise=kind in POST_SOFTMAX or bool(config.get("norm_topk_prob", False)),
        scale=float(first_of(config, "routed_scaling_factor", default=1.0)), n_group=first_of(config, "n_group", default=1),
        topk_group=first_of(config, "topk_group", default=1))


def read_facts(model):
    """Facts of a checkpoint's folder or of a config.json."""
    path = Path(model)
    path = path / "config.json" if path.is_dir() else path
    return facts_of(read_json(path, "a checkpoint's config.json"), path)
