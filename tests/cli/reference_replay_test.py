"""Replays of random small configurations against a slow replay in Python: every step's counters, loads, traffic between ranks and the schedule.

MOEKV_REPLAYS=first:end replays these seeds in place of the shipped ones; a seed that fails is named with its settings.
"""
import os
import unittest
from collections import Counter

import h5py
import numpy as np

import program
from reference_attention import AttentiveReplay
from reference_cases import draw, draw_attentive, draw_demoting, draw_selective, settings_of_case, write_trace
from reference_replay import Replay
from reference_select import SelectiveReplay
from reference_tiers import DemotingReplay

ASKED = os.environ.get("MOEKV_REPLAYS")
SEEDS = range(*map(int, ASKED.split(":"))) if ASKED else [*range(40), 90, 99, 114, 188, 255, 308, 414, 785]  # the single ones tell orders of victims apart
SEEDS_OF_ATTENTION = range(*map(int, ASKED.split(":"))) if ASKED else [*range(7), 13, 22]  # the single ones: accesses, attention of what no query read
SEEDS_OF_READS = range(*map(int, ASKED.split(":"))) if ASKED else range(6)
SEEDS_OF_TIERS = range(*map(int, ASKED.split(":"))) if ASKED else range(14)
# Counters of a step; at its end those of what is resident. `bytes` and `self` are compared less the headers of records.
SHARD_LOADS = ("load", "insertions", "resident_bytes", "peak_bytes")
CLASSES = ("kv", "q", "partial", "lse", "notices")


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
    total["stored_entries"] = total["resident_entries"] + total["host_entries"]
    over = {"read_amplification": ("entries_scanned", "entries_wanted"), "fanout": ("query_ranks", "queries"), "node_fanout": ("query_nodes", "queries"),
            "hit_ratio": ("n_hit", "n_req"), "byte_miss_ratio": ("missed_bytes", "requested_bytes"), "local_hit_ratio": ("hit_local", "n_req"),
            "churn": ("evictions", "insertions"), "ranks_per_token": ("store_ranks", "distinct_insertions"),
            "dedup_factor": ("chosen_experts", "stored_copies"), "token_keep_fraction": ("resident_distinct", "written_distinct"),
            "replication_factor": ("stored_entries", "resident_distinct"), "empty_read_ratio": ("empty_reads", "queries")}
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

    def replay_all(self, cases, slow, backend=None):
        """Every case by the program and by slow(settings, trace); the sum of the slow counters."""
        for seed, (settings, trace) in cases.items():
            settings["backend"] = backend or ("host" if seed % 6 == 0 else "count")
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
                replay = slow(settings, trace).run()
                replay.counted = {name for count, _, _ in replay.steps for name in count}
                different = self.differences(replay, mine, {name: values[point] for name, values in metrics.items()})
                self.assertEqual(different, {}, f"{settings}, {trace['moe_layers']} of {trace['model']}")
                for count, _, _ in replay.steps:
                    total.update(count)
        return total

    def test_every_counter_is_that_of_a_slow_replay(self):
        total = self.replay_all({seed: draw(seed) for seed in SEEDS}, Replay)
        for name in ("evictions", "overcommit", "n_miss", "masked_copies", "empty_reads", "dedup_merged", "stored_home", "wire_notices", "hit_remote"):
            self.assertTrue(total[name] > 0 or ASKED, f"no case has {name}")

    def test_what_leaves_has_the_least_attention(self):
        total = self.replay_all({seed: draw_attentive(seed) for seed in SEEDS_OF_ATTENTION}, AttentiveReplay, "host")
        for name in ("evictions", "wire_lse"):
            self.assertTrue(total[name] > 0 or ASKED, f"no case has {name}")

    def test_queries_read_the_pages_that_promise_most(self):
        total = self.replay_all({seed: draw_selective(seed) for seed in SEEDS_OF_READS}, SelectiveReplay, "host")
        for name in ("pages_selected", "empty_reads"):
            self.assertTrue(total[name] > 0 or ASKED, f"no case has {name}")

    def test_the_host_tier_holds_what_left(self):
        total = self.replay_all({seed: draw_demoting(seed) for seed in SEEDS_OF_TIERS}, DemotingReplay)
        for name in ("demotions", "recalls", "hit_host", "host_finished_entries", "overcommit"):
            self.assertTrue(total[name] > 0 or ASKED, f"no case has {name}")


if __name__ == "__main__":
    unittest.main()
