"""Replays of random small configurations against a slow replay in Python: every step's counters, loads, traffic between ranks and the schedule.

MOEKV_REPLAYS=first:end replays these seeds in place of the shipped ones; a seed that fails is named with its settings.
"""
import os
import random
import sys
import unittest
from collections import Counter
from fractions import Fraction

import h5py
import numpy as np

import program

sys.path.insert(0, str(program.SOURCE / "tests/support"))
from reference_replay import Replay  # noqa: E402

ASKED = os.environ.get("MOEKV_REPLAYS")
SEEDS = range(*map(int, ASKED.split(":"))) if ASKED else [*range(40), 90, 99, 114, 188, 255, 308, 414, 785]  # the single ones tell orders of victims apart
# Counters of a step; at its end those of what is resident. `bytes` and `self` are compared less the headers of records.
SHARD_LOADS = ("load", "insertions", "resident_bytes", "peak_bytes")
CLASSES = ("kv", "q", "partial", "lse", "notices")


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


def draw_eviction(rng, scope_of_reads):
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
         "eviction.protect.recent": recent, "eviction.access": rng.choice(["routed", "routed", "dense" if scope_of_reads == "all" else "routed"])}
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
    return {**settings, **(draw_eviction(rng, settings["read.scope"]) if rng.random() < 0.75 else {})}, trace


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


def rows(record, keys, fields):
    """{keys of a row -> {field: value}} of a record."""
    return {row[:len(keys)]: dict(zip(fields, row[len(keys):])) for row in zip(*(record[name].tolist() for name in (*keys, *fields)))}


def balance(x):
    """Of the loads of all experts, shards, ranks or nodes over the run."""
    x = np.array(x, float)
    n, mean, share = len(x), x.mean(), x[x > 0] / x.sum()
    return {"imbalance_ratio": x.max() / mean, "max_vio": x.max() / mean - 1, "min_ratio": x.min() / mean, "utilisation": np.mean(x > 0),
            "load_cv": x.std() / mean, "dispersion": x.var() / mean, "jain": x.sum()**2 / (n * (x * x).sum()),
            "gini": np.abs(x[:, None] - x).sum() / (2 * n * n * mean), "entropy_norm": -(share * np.log(share)).sum() / np.log(n) if n > 1 else 0}


def summary(replay):
    """The metrics of a run that follow from counters of its steps: name -> value."""
    total, load = Counter(), Counter()
    for count, of_step, _ in replay.steps:
        total.update(count)
        load.update(of_step)
    over = {"read_amplification": ("entries_scanned", "entries_wanted"), "fanout": ("query_ranks", "queries"), "node_fanout": ("query_nodes", "queries"),
            "hit_ratio": ("n_hit", "n_req"), "byte_miss_ratio": ("missed_bytes", "requested_bytes"), "local_hit_ratio": ("hit_local", "n_req"),
            "churn": ("evictions", "insertions"), "ranks_per_token": ("store_ranks", "distinct_insertions"),
            "dedup_factor": ("chosen_experts", "stored_copies"), "token_keep_fraction": ("resident_distinct", "written_distinct"),
            "replication_factor": ("resident_entries", "resident_distinct"), "empty_read_ratio": ("empty_reads", "queries")}
    out = {name: total[a] / total[b] for name, (a, b) in over.items() if total[b]}
    shards = [load["shard", s, "load"] for s in range(replay.shards)]
    ranks = [sum(n for s, n in enumerate(shards) if replay.owner(s) == g) for g in range(replay.ranks)]
    for entity, loads in (("shard", shards), ("rank", ranks), ("expert", [load["expert", e, "load"] for e in range(replay.n_experts)])):
        out.update({f"{entity}_{name}": value for name, value in balance(loads).items()} if sum(loads) else {})
    return out


class ReferenceReplay(program.ProgramTest):
    def differences(self, replay, record, metrics):
        """{what: (step, expected, got)}, the first step of each."""
        step, out = record["step"], {}
        loads = rows(record["load"], ("first_step", "entity", "index"), SHARD_LOADS)
        traffic = rows(record["traffic"], ("first_step", "source", "destination"), (*CLASSES, "headers"))

        def same(what, at, expected, got):
            if expected != got:
                out.setdefault(what, (at, expected, got))

        same("steps", 0, len(replay.steps), len(step["n_req"]))
        spans = {r: row for r, *row in zip(*(record["request"][name].tolist() for name in ("request", "home", "first_step", "last_step")))}
        same("requests", 0, {r: [replay.home(r), *span] for r, span in replay.requests.items()}, spans)
        for i, (count, load, bytes_of) in enumerate(replay.steps[:len(step["n_req"])]):
            headers = Counter()
            for source in range(replay.ranks):
                for destination in range(replay.ranks):
                    got = traffic.get((i, source, destination), {})
                    headers[source == destination] += got.get("headers", 0)
                    for name in CLASSES:
                        same(f"traffic {source} to {destination} {name}", i, bytes_of[source, destination, name], got.get(name, 0))
            same("bytes_logical", i, count.pop("bytes", 0) + sum(headers.values()), step["bytes_logical"][i])
            same("bytes_self", i, count.pop("self", 0) + headers[True], step["bytes_self"][i])
            for name in step:
                if name in count or name in replay.counted:
                    same(name, i, count[name], step[name][i])
            for s in range(replay.shards):
                for field in SHARD_LOADS:
                    same(f"{field} of shard {s}", i, load["shard", s, field], loads.get((i, 1, s), {}).get(field, 0))
            for e in range(replay.n_experts):
                same(f"load of expert {e}", i, load["expert", e, "load"], loads.get((i, 0, e), {}).get("load", 0))
        for name, value in summary(replay).items():
            if not np.isclose(value, metrics[name], rtol=1e-9, atol=1e-12):
                out[name] = ("run", value, metrics[name])
        return out

    def test_every_counter_is_that_of_a_slow_replay(self):
        cases = {seed: draw(seed) for seed in SEEDS}
        for seed, (settings, trace) in cases.items():
            settings["backend"] = "host" if seed % 6 == 0 else "count"
            write_trace(self.folder / f"{seed}.moekv.h5", trace)
        base = "base: {probe: {samples: 0}, metrics: {per_step: true}}\naxes:\n  - cases:\n"
        (self.folder / "s.yaml").write_text(base + "".join(settings_of_case(seed, *case) for seed, case in cases.items()))
        self.run_ok("sweep", "s.yaml", "--out", "s", "-q", limit_s=280)
        self.run_ok("merge", "s", "--out", "s.h5")
        total = Counter()
        with h5py.File(self.folder / "s.h5") as file:
            labels = file["label"].asstr()[:].tolist()
            metrics = {name: data[:] for name, data in file["metric"].items()}
            records = {kind: {name: data[:] for name, data in file["record"][kind].items()} for kind in ("step", "load", "traffic", "request")}
        for seed, (settings, trace) in cases.items():
            with self.subTest(seed=seed):
                point = labels.index(f"s{seed}")
                mine = {kind: {name: data[table["point_index"] == point] for name, data in table.items()} for kind, table in records.items()}
                replay = Replay(settings, trace).run()
                replay.counted = {name for count, _, _ in replay.steps for name in count}
                different = self.differences(replay, mine, {name: values[point] for name, values in metrics.items()})
                self.assertEqual(different, {}, f"{settings}, {trace['moe_layers']} of {trace['model']}")
                for count, _, _ in replay.steps:
                    total.update(count)
        for name in ("evictions", "overcommit", "n_miss", "masked_copies", "empty_reads", "dedup_merged", "stored_home", "wire_notices", "hit_remote"):
            self.assertTrue(total[name] > 0 or ASKED, f"no case has {name}")


if __name__ == "__main__":
    unittest.main()
