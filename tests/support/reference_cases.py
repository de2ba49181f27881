"""Random small configurations and their traces: settings of the command line, and what the trace file holds."""
import random
from fractions import Fraction

import h5py
import numpy as np

from reference_attention import RULES


def draw_model(rng):
    layers = rng.randint(1, 4)
    attention = [rng.choice(["full", "full", "full", rng.randint(1, 12), "none"]) for _ in range(layers)]
    attention[0] = "full" if set(attention) == {"none"} else attention[0]
    if rng.random() < 0.35:
        latent = rng.choice([8, 16])
        return {"n_layers": layers, "n_heads": rng.choice([2, 4, 6]), "n_kv_heads": 1, "d_k": latent + rng.choice([4, 8]), "d_v": latent, "d_c": latent,
                "attention": attention}
    kv = rng.randint(1, 4)
    return {"n_layers": layers, "n_heads": kv * rng.randint(1, 3), "n_kv_heads": kv, "d_k": rng.choice([4, 8, 16]), "d_v": rng.choice([4, 8, 16]), "d_c": 0,
            "attention": attention}


def draw_trace(rng, model):
    n_experts = rng.choice([4, 6, 7, 8, 20])
    k = rng.randint(1, 4)
    moe = sorted(rng.sample(range(model["n_layers"]), rng.randint(1, model["n_layers"])))
    lengths = [(rng.choice([0, rng.randint(1, 30), rng.randint(1, 60)]), rng.choice([0, rng.randint(1, 25)])) for _ in range(rng.randint(1, 5))]
    lengths = [(p, o) if p + o else (3, 2) for p, o in lengths]
    absent = rng.choice([0, 0, 0.2])
    experts = [[[rng.sample(range(n_experts), k) for _ in moe] for _ in range(p + o)] for p, o in lengths]
    for ids in (ids for request in experts for token in request for ids in token):
        if rng.random() < absent:
            ids[rng.randrange(k):] = [255] * len(ids[rng.randrange(k):])
            ids[:] = (ids + [255] * k)[:k]
    return {"model": model, "n_experts": n_experts, "top_k": k, "moe_layers": moe, "prompt": [p for p, _ in lengths], "output": [o for _, o in lengths],
            "experts": experts}


def draw_placement(rng, model):
    layout = rng.choice(["local", "expert", "expert", "expert", "token", "head", "replicated"])
    s = {"placement.layout": layout, "cluster.ranks": rng.randint(1, 6), "cluster.network.ranks_per_node": rng.choice([2, 8])}
    s["cluster.shards_per_rank"] = rng.choice([1, 1, 2, 3])
    if layout == "head":
        s["cluster.ranks"] = min(s["cluster.ranks"], model["n_heads"])
    if layout in ("expert", "token"):
        s["placement.map"] = rng.choice(["hash", "pikv_xor", {"expert": "expert_affine", "token": "block_cyclic"}[layout]])
    if s.get("placement.map") == "pikv_xor":
        s["placement.fold"] = True
        s.update(rng.choice([{}, {"placement.n_tok": rng.randint(1, 9), "placement.n_exp": rng.randint(1, 9)}]))
    if layout == "expert":
        s.update(rng.choice([{}, {}, {"page.key": "shard"}, {"placement.dedup": "shard"}, {"placement.dedup": "rank"}]))
        s["read.copies"] = rng.choice(["surviving", "surviving", "hash", "hash", "paper"])
    s["placement.home"] = rng.choice(["modulo", "modulo", "least_loaded"])
    s["page.slots"] = rng.choice([8, 8, 16, 11, 33])
    s["page.head_groups"] = rng.choice([g for g in range(1, model["n_kv_heads"] + 1) if model["n_kv_heads"] % g == 0])
    s["read.scope"] = rng.choice(["all", "routed"])
    s["routing.key"] = rng.choice(["previous_layer", "previous_token", "same_layer"])
    s["payload.element"] = rng.choice(["bf16", "bf16", "fp32", "fp16"])
    s["combine.dtype"] = rng.choice(["fp32", "fp32", "bf16"])
    s["seed"] = rng.randint(0, 1000)
    return s


def draw_batches(rng):
    room = rng.choice([2048, rng.randint(3, 40)])
    seqs = rng.choice([min(64, room), rng.randint(1, min(4, room))])
    s = {"batch.max_num_batched_tokens": room, "batch.max_num_seqs": seqs, "batch.concurrency": rng.randint(1, min(8, seqs)),
         "prefill.chunk_tokens": rng.choice([min(512, room), rng.randint(1, min(20, room))])}
    s["prefill.queries"] = rng.choice(["auto", "all", "none", f"last({rng.randint(1, 9)})"])
    return s


def draw_eviction(rng):
    unit, scope = rng.choice(["page", "page", "page", "token"]), rng.choice(["request", "request", "request", "shard"])
    kinds = [kind for kind in ("tokens", "fraction", "pages", "bytes") if (unit == "page" or kind in ("tokens", "fraction"))]
    kind = rng.choice([k for k in kinds if scope == "request" or k != "fraction"])
    policy = rng.choice(["fifo", "streaming", *(["lru", "mru", "lfu", "clock", "sieve"] * (unit == "page"))])
    sinks, recent, times = rng.choice([0, 0, 1, 3]), rng.choice([0, 1, 4, 9]), 3 if scope == "shard" else 1
    start = rng.choice([0, 2]) if policy == "streaming" else 0
    least = max(sinks, start) + recent
    amount = {"tokens": rng.randint(least + 1, least + 30 * times), "pages": rng.randint(2, 12 * times), "bytes": rng.randint(2000, 30000 * times),
              "fraction": Fraction(rng.randint(1, 9), 10)}[kind]
    s = {"eviction.policy": policy, "eviction.unit": unit, "eviction.scope": scope, "eviction.budget": (kind, amount), "eviction.protect.sinks": sinks,
         "eviction.protect.recent": recent, "eviction.access": rng.choice(["routed", "routed", "dense"])}
    s.update({"eviction.start": start} if policy == "streaming" else {})
    trigger = rng.choice(["on_full", "on_full", "on_full", "watermark", "every", "prefill_end"])
    s["eviction.trigger"] = trigger
    s.update({"watermark": {"eviction.low_watermark": Fraction(rng.randint(1, 3), 4)}, "every": {"eviction.every_steps": rng.randint(1, 6)}}.get(trigger, {}))
    s["prefill.evict"] = "end" if trigger == "prefill_end" else rng.choice(["end", "end", "chunk"])
    return s


def draw(seed):
    rng = random.Random(seed)
    model = draw_model(rng)
    trace = draw_trace(rng, model)
    settings = {**draw_placement(rng, model), **draw_batches(rng)}
    return {**settings, **(draw_eviction(rng) if rng.random() < 0.75 else {})}, trace


def draw_recorded(rng, seed):
    """A placement, batches, and a trace with q, k, v."""
    model = draw_model(rng)
    trace = draw_trace(rng, model)
    values = np.random.default_rng(seed)
    trace["qkv"] = [tuple(values.normal(size=(p + o, model["n_layers"], heads, model["d_k"])).astype("f2").astype(float) for heads in (model["n_heads"], model["n_kv_heads"]))
                    for p, o in zip(trace["prompt"], trace["output"])]
    return {**draw_placement(rng, model), **draw_batches(rng), "payload.element": rng.choice(["fp32", "fp16"])}, trace


def draw_selective(seed):
    rng = random.Random(seed)
    settings, trace = draw_recorded(rng, seed)
    settings.update({"read.select": "quest", "read.budget_pages": rng.randint(1, 3), "read.variant": rng.choice(["kernel", "kernel", "accuracy"]),
                     "read.dense_layers": rng.choice([0, 0, 1]), "read.heads": rng.choice(["sum", "max"]),
                     "read.prompt": rng.choice(["dense", "selected"])})
    if all(kind == "none" for kind in trace["model"]["attention"][settings["read.dense_layers"]:]):
        settings["read.dense_layers"] = 0
    return settings, trace


def draw_attentive(seed):
    """A case whose rule goes by attention."""
    rng = random.Random(seed)
    settings, trace = draw_recorded(rng, seed)
    settings.update(draw_eviction(rng))
    settings.pop("eviction.start", None)
    settings["eviction.policy"] = rng.choice(list(RULES))
    settings["eviction.unit"] = rng.choice(["token", "token", "page"])
    kind = settings["eviction.budget"][0]
    if kind == "bytes" or kind == "pages" and settings["eviction.unit"] == "token":
        settings["eviction.budget"] = ("tokens", rng.randint(8, 40))
    settings.update({"eviction.head_reducer": rng.choice(["mean", "sum", "max"]), "eviction.page_reducer": rng.choice(["mean", "sum", "max", "min"])})
    settings["prefill.queries"] = "all" if settings["prefill.queries"] == "none" else settings["prefill.queries"]
    return settings, trace


def draw_demoting(seed):
    settings, trace = draw(seed + (1 << 32))
    while "eviction.policy" not in settings or settings["eviction.trigger"] == "prefill_end":
        seed += 1 << 32
        settings, trace = draw(seed)
    rng = random.Random(seed)
    settings.pop("eviction.start", None)
    settings.update({"eviction.policy": rng.choice(["lru", "fifo"]), "eviction.unit": "page", "eviction.access": "routed",
                     "eviction.action": "demote"})
    return settings, trace


def write_qkv(kv, t):
    """V goes into no decision: of MLA it is the latent, else zero."""
    q, k = (np.concatenate(rows) for rows in zip(*t["qkv"]))
    m = t["model"]
    latent = {"ckv": k[:, :, 0, :m["d_c"]], "kpe": k[:, :, 0, m["d_c"]:]} if m["d_c"] else {"k": k, "v": np.zeros((*k.shape[:3], m["d_v"]), "f2")}
    kv["layer_ids"] = np.arange(m["n_layers"], dtype="i2")
    for name, rows in {"q": q, **latent}.items():
        kv.create_dataset(name, data=rows.astype("f2"), chunks=rows.shape, compression="gzip", shuffle=True)


def write_trace(path, t):
    lengths = np.add(t["prompt"], t["output"])
    model, n, tokens = t["model"], len(lengths), int(lengths.sum())
    with h5py.File(path, "w", libver=("earliest", "v110")) as file:
        file.attrs.update(format="moekv-trace", version=np.array([1, 0], "i4"), created_utc="2024-01-01T00:00:00Z", generator="reference_replay_test.py",
                          source="test", license="Apache-2.0", model_name="t", workload="test", order="request", routing_level=0, weight_kind="none", seed=1)
        file.create_group("model").attrs.update(
            n_layers=model["n_layers"], n_moe_layers=len(t["moe_layers"]), hidden=64, n_heads=model["n_heads"], n_kv_heads=model["n_kv_heads"],
            head_dim_k=model["d_k"], head_dim_v=model["d_v"], attn="mla" if model["d_c"] else "gqa", kv_lora_rank=model["d_c"],
            rope_dim=model["d_k"] - model["d_c"] if model["d_c"] else 0, n_experts=t["n_experts"], top_k=t["top_k"], n_shared=0, score_func="softmax",
            softmax_order="pre", norm_topk=1, scale=1.0, n_group=1, topk_group=1)
        file["model/moe_layer_ids"] = np.array(t["moe_layers"], "i2")
        for name, values, kind in (("arrival_ns", [0] * n, "i8"), ("prompt_len", t["prompt"], "u4"), ("output_len", t["output"], "u4"),
                                   ("session", range(n), "i4"), ("domain", [0] * n, "u2"), ("token_offset", [0, *np.cumsum(lengths)], "u8")):
            file[f"requests/{name}"] = np.array(values, kind)
        file["requests/domain_names"] = np.array(["text"], object).astype(h5py.string_dtype())
        file["tokens/position"] = np.concatenate([np.arange(length) for length in lengths]).astype("u4")
        file["tokens/phase"] = np.concatenate([np.arange(length) >= p for length, p in zip(lengths, t["prompt"])]).astype("u1")
        ids = np.array([token for request in t["experts"] for token in request], "u1")
        file.create_dataset("routing/expert_ids", data=ids, chunks=(tokens, *ids.shape[1:]), compression="gzip", shuffle=True)
        if "qkv" in t:
            write_qkv(file.create_group("kv"), t)


def settings_of_case(seed, settings, t):
    """A line of a sweep's cases: the model in place, a trace of its own."""
    m = t["model"]
    heads = f"latent: {{d_c: {m['d_c']}, d_rope: {m['d_k'] - m['d_c']}}}" if m["d_c"] else f"n_kv_heads: {m['n_kv_heads']}, d_k: {m['d_k']}, d_v: {m['d_v']}"
    pattern = ", ".join(str(a) if isinstance(a, str) else f"window({a})" for a in m["attention"])
    dense = [l for l in range(m["n_layers"]) if l not in t["moe_layers"]]
    model = (f"{{name: t, layers: {{count: {m['n_layers']}, pattern: [{pattern}], dense: {dense}}}, hidden: 64, n_heads: {m['n_heads']}, {heads}, "
             f"gate: {{n_experts: {t['n_experts']}, top_k: {t['top_k']}}}}}")
    others = "".join(f", {key}: {text(value)}" for key, value in settings.items())
    return f"    - {{label: s{seed}, model: {model}, trace: {{path: {seed}.moekv.h5}}{others}}}\n"


def text(value):
    if isinstance(value, tuple):
        return f"{{{value[0]}: {value[1]}}}"
    return str(value).lower() if isinstance(value, bool) else str(float(value) if isinstance(value, Fraction) else value)
