"""The plan of each Hugging Face architecture that a model file can hold, by model_type."""
from hf_checkpoint import Refusal
from hf_models import MXFP4_GROUP, Dataset, Plan, decode_mxfp4


def mixtral(plan):
    c = plan.config
    plan.add_gate(order="post")
    window = c.number("sliding_window", 0, least=0)
    for l in range(plan.n_layers):
        plan.layers[l] = {"window_tokens": window}
        plan.add_attention(l)
        source, to = f"model.layers.{l}.block_sparse_moe.", f"layers/{l}/ffn/"
        if source + "gate.weight" not in plan.checkpoint:
            source = f"model.layers.{l}.mlp."
        plan.whole(to + "router", source + "gate.weight", [plan.n_experts, plan.hidden])
        plan.add_experts(to, source + "experts.", c.number("intermediate_size"), ("w1", "w3", "w2"))


def olmoe(plan):
    c = plan.config
    c.must_be("clip_qkv", [None])
    plan.add_gate(renormalise=c.flag("norm_topk_prob"))
    for l in range(plan.n_layers):
        plan.add_attention(l, "qkvo" if c.flag("attention_bias", False) else "", norms="all heads")
        plan.whole(f"layers/{l}/ffn/router", f"model.layers.{l}.mlp.gate.weight", [plan.n_experts, plan.hidden])
        plan.add_experts(f"layers/{l}/ffn/", f"model.layers.{l}.mlp.experts.", c.number("intermediate_size"))


def qwen_windows(plan):
    c = plan.config
    if not c.flag("use_sliding_window", False) or c.values.get("sliding_window") is None:
        return
    types = c.values.get("layer_types")
    if types is None and c.values["model_type"] == "qwen2_moe":
        c.refuse("use_sliding_window is true and layer_types is missing", "versions of the library give windows to different layers: name them")
    set_windows(plan, types or ["sliding_attention"] * plan.n_layers, c.number("sliding_window"))


def set_windows(plan, types, window):
    if len(types) != plan.n_layers or not set(types) <= {"sliding_attention", "full_attention"}:
        plan.config.refuse(f"layer_types is {types!r}", f"supported: sliding_attention and full_attention, for {plan.n_layers} layers")
    for layer, kind in zip(plan.layers, types):
        layer["window_tokens"] = window if kind == "sliding_attention" else 0


def qwen_moe(plan, biases, norms=None, shared=False):
    c = plan.config
    plan.add_gate(renormalise=c.flag("norm_topk_prob"))
    qwen_windows(plan)
    stride, dense = c.number("decoder_sparse_step", 1), c.values.get("mlp_only_layers") or []
    for l in range(plan.n_layers):
        plan.add_attention(l, biases, norms)
        source, to = f"model.layers.{l}.mlp.", f"layers/{l}/ffn/"
        if l in dense or (l + 1) % stride != 0:
            plan.add_ffn(to, source, c.number("intermediate_size"))
            continue
        plan.whole(to + "router", source + "gate.weight", [plan.n_experts, plan.hidden])
        plan.add_experts(to, source + "experts.", c.number("moe_intermediate_size"))
        if shared:
            plan.add_ffn(to + "shared_", source + "shared_expert.", c.number("shared_expert_intermediate_size"))
            plan.whole(to + "shared_router", source + "shared_expert_gate.weight", [1, plan.hidden], lambda values: values[0])


def qwen2_moe(plan):
    qwen_moe(plan, "qkv" if plan.config.flag("qkv_bias", True) else "", shared=True)


def qwen3_moe(plan):
    qwen_moe(plan, "qkvo" if plan.config.flag("attention_bias", False) else "", norms="head")


def glm4_moe(plan):
    c = plan.config
    plan.add_gate(score="sigmoid", renormalise=c.flag("norm_topk_prob"),
                  gate_scale=c.number("routed_scaling_factor", least=0, kind=float), gate_n_group=c.number("n_group"), gate_topk_group=c.number("topk_group"))
    plan.ignored.append(rf"model\.layers\.{plan.n_layers}\..*")  # the extra layer that predicts a second token
    width = c.number("moe_intermediate_size")
    for l in range(plan.n_layers):
        plan.add_attention(l, "qkv" if c.flag("attention_bias", False) else "", "head" if c.flag("use_qk_norm", False) else None)
        source, to = f"model.layers.{l}.mlp.", f"layers/{l}/ffn/"
        if l < c.number("first_k_dense_replace", least=0):
            plan.add_ffn(to, source, c.number("intermediate_size"))
            continue
        plan.whole(to + "router", source + "gate.weight", [plan.n_experts, plan.hidden])
        plan.whole(to + "choice_bias", source + "gate.e_score_correction_bias", [plan.n_experts])
        plan.add_experts(to, source + "experts.", width)
        plan.add_ffn(to + "shared_", source + "shared_experts.", width * c.number("n_shared_experts"))


def gpt_oss(plan):
    c = plan.config
    plan.add_gate(order="post", activation="swiglu_clamped", swiglu_alpha=c.number("swiglu_alpha", 1.702, 0, float),
                  swiglu_limit=c.number("swiglu_limit", 7.0, 0, float))
    set_windows(plan, c.values.get("layer_types") or ["full_attention" if l % 2 else "sliding_attention" for l in range(plan.n_layers)],
                c.number("sliding_window"))
    for l in range(plan.n_layers):
        plan.add_attention(l, "qkvo" if c.flag("attention_bias", True) else "")
        source, to = f"model.layers.{l}.", f"layers/{l}/"
        plan.whole(to + "attn/sinks", source + "self_attn.sinks", [plan.n_heads])
        plan.whole(to + "ffn/router", source + "mlp.router.weight", [plan.n_experts, plan.hidden])
        plan.whole(to + "ffn/router_bias", source + "mlp.router.bias", [plan.n_experts])
        gpt_oss_experts(plan, to + "ffn/experts_", source + "mlp.experts.", c.number("intermediate_size"))


def gpt_oss_experts(plan, to, source, width):
    """Gate and up alternate: as rows of MXFP4 blocks, else as columns of [experts, in, out]."""
    ck, e, h = plan.checkpoint, plan.n_experts, plan.hidden
    bias = source + "gate_up_proj_bias"
    plan.whole(to + "gate_bias", bias, [e, 2 * width], lambda values: values[:, 0::2])
    plan.whole(to + "up_bias", bias, [e, 2 * width], lambda values: values[:, 1::2])
    plan.whole(to + "down_bias", source + "down_proj_bias", [e, h])
    if source + "gate_up_proj" in ck:
        fused = ck.take(source + "gate_up_proj", [e, h, 2 * width])
        plan.split(to + "gate", (width, h), fused, lambda values: values[:, 0::2].T)
        plan.split(to + "up", (width, h), fused, lambda values: values[:, 1::2].T)
        plan.split(to + "down", (h, width), ck.take(source + "down_proj", [e, width, h]), lambda values: values.T)
        return
    add_mxfp4(plan, to + "gate", source + "gate_up_proj", (2 * width, h), slice(0, None, 2))
    add_mxfp4(plan, to + "up", source + "gate_up_proj", (2 * width, h), slice(1, None, 2))
    add_mxfp4(plan, to + "down", source + "down_proj", (h, width), slice(None))


def add_mxfp4(plan, to, name, shape, rows):
    """Some rows of the matrices of all experts, decoded to bfloat16, which holds them exactly."""
    if shape[1] % MXFP4_GROUP != 0:
        plan.config.refuse(f"{shape[1]} inputs of {name} are no whole groups of {MXFP4_GROUP}")
    groups = shape[1] // MXFP4_GROUP
    blocks = plan.checkpoint.take(name + "_blocks", [plan.n_experts, shape[0], groups, MXFP4_GROUP // 2])
    scales = plan.checkpoint.take(name + "_scales", [plan.n_experts, shape[0], groups])
    if (blocks.type, scales.type) != ("U8", "U8"):
        raise Refusal(blocks.where, f"blocks and scales are {blocks.type} and {scales.type}, expected U8")
    parts = [lambda e=e: decode_mxfp4(blocks.values()[e][rows], scales.values()[e][rows]) for e in range(plan.n_experts)]
    plan.datasets.append(Dataset(to, (plan.n_experts, len(range(*rows.indices(shape[0]))), shape[1]), "BF16", parts, blocks.where))


ARCHITECTURES = {"glm4_moe": glm4_moe, "gpt_oss": gpt_oss, "mixtral": mixtral, "olmoe": olmoe, "qwen2_moe": qwen2_moe, "qwen3_moe": qwen3_moe}


def plan_of(checkpoint):
    """The model file that the checkpoint becomes."""
    config = checkpoint.config
    architecture = config.get("model_type")
    if architecture not in ARCHITECTURES:
        raise Refusal(checkpoint.folder / "config.json", f"model_type is {architecture!r}", f"supported: {', '.join(ARCHITECTURES)}")
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method is not None and (architecture, method) != ("gpt_oss", "mxfp4"):
        raise Refusal(checkpoint.folder / "config.json", f"the weights are quantised: quant_method is {method!r}", "supported: mxfp4 of gpt_oss")
    plan = Plan(checkpoint)
    ARCHITECTURES[architecture](plan)
    plan.refuse_unused()
    return plan
