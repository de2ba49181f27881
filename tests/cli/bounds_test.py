"""On random cases of `moekv policy evict` no policy beats the bound of its kind: Belady for accesses, the assignment for attention mass."""
import itertools
import json
import random
import re
import subprocess
import unittest

import program

ACCESS_RULES = ["fifo", "lru", "mru", "clock", "sieve", "slru", "2q", "s3fifo", "arc", "lfu", "lrfu", "lru_plus.raw", "lru_plus.norm",
                "least_stale.cyclic_layer", "least_stale.ewma_interval", "threshold.adaptive", "pikv.quest_legacy", "random"]
MASS_RULES = ["h2o.sum", "h2o.mean_seen", "h2o.decay", "h2o.sq", "tova", "snapkv", "chunk_retain", "pikv.h2o", "pikv.duo_layersum", "fifo", "streaming", "random",
              "pikv.sl_indicator"]
NEEDS_TIERS = {"flexgen.static", "pikv.flexgen_inv"}  # they weigh tiers and reaches, not a sequence
NEEDS_ROWS = {"knorm", "paged_eviction", "pikv.quest_mlp", "keydiff", "lagkv", "cur", "expected_attention", "r_kv", "cake", "quest.evict"}


def decide(cases):
    done = subprocess.run([program.PROGRAM, "policy", "evict"], input=json.dumps(cases), capture_output=True, text=True, timeout=program.LIMIT_S, check=False)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return json.loads(done.stdout)


def rows_of(draw, n):
    rows = []
    for t in range(n):
        row = [draw.choice([0, 0, 1, 2, 5, 9]) + draw.random() / 100 for _ in range(t + 1)]
        rows.append([a / sum(row) for a in row])
    return rows


def least_loss(rows, budget):
    """Lost mass of the best evict-after-step choices, by trying all of them."""
    best = float("inf")

    def go(t, held, lost):
        nonlocal best
        if lost >= best:
            return
        if t == len(rows):
            best = lost
            return
        held = held | {t}
        lost += sum(a for i, a in enumerate(rows[t]) if i not in held)
        for gone in itertools.combinations(held, max(0, len(held) - budget)):
            go(t + 1, held - set(gone), lost)

    go(0, frozenset(), 0.0)
    return best


class Bounds(unittest.TestCase):
    def test_every_policy_is_in_one_list(self):
        known = set(ACCESS_RULES) | set(MASS_RULES) | NEEDS_ROWS | NEEDS_TIERS | {"full"}
        self.assertEqual(set(re.findall(r"(?m)^  (\S+) ", program.run("list", "policies").out)), known)

    def test_nothing_beats_belady(self):
        draw = random.Random(7)
        traces = [[draw.randrange(3 + i % 7) for _ in range(40)] for i in range(60)]
        better = set()
        for capacity in (2, 4):
            hits = {rule: [d["hits"] for d in decide([{"rule": rule, "capacity": capacity, "accesses": t} for t in traces])]
                    for rule in [*ACCESS_RULES, "opt.forced", "opt.bypass"]}
            for rule, found in hits.items():
                for i, n in enumerate(found):
                    bound = "opt.bypass" if rule.startswith("opt.") else "opt.forced"
                    self.assertLessEqual(n, hits[bound][i], (rule, capacity, traces[i]))
                    if n < hits["opt.forced"][i]:
                        better.add(rule)
        self.assertTrue(set(ACCESS_RULES) <= better, "each policy falls short of the bound somewhere, so the comparison says something")

    def test_nothing_beats_the_assignment(self):
        draw = random.Random(11)
        all_rows = [rows_of(draw, 24) for _ in range(25)]
        lost = {rule: [d["lost_mass"] for d in decide([{"rule": rule, "capacity": 6, "over": "all", "attention": rows} for rows in all_rows])]
                for rule in [*MASS_RULES, "orc.select", "orc.mass", "orc.greedy"]}
        for i in range(len(all_rows)):
            self.assertLessEqual(lost["orc.select"][i], lost["orc.mass"][i] + 1e-9)
            self.assertLessEqual(lost["orc.mass"][i], lost["orc.greedy"][i] + 1e-9)
            for rule in MASS_RULES:
                self.assertLessEqual(lost["orc.mass"][i], lost[rule][i] + 1e-6, rule)
        self.assertGreater(sum(lost["h2o.sum"]), sum(lost["orc.mass"]))

    def test_the_assignment_is_the_best_of_all_choices(self):
        draw = random.Random(13)
        all_rows = [rows_of(draw, 6) for _ in range(60)]
        for budget in (1, 2, 3):
            found = decide([{"rule": "orc.mass", "capacity": budget, "over": "all", "attention": rows} for rows in all_rows])
            for rows, d in zip(all_rows, found):
                self.assertAlmostEqual(d["lost_mass"], least_loss(rows, budget), places=9)


if __name__ == "__main__":
    unittest.main()
