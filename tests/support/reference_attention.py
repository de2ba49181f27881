"""Attention of a slow replay from recorded q, k, v, and the rules that go by what entries got of it."""
from collections import defaultdict

import numpy as np

from reference_replay import Replay

# What an entry has after a step in which it got `now`.
RULES = {"h2o.sum": lambda e: e.mass + e.now, "h2o.mean_seen": lambda e: e.mass + e.now, "h2o.sq": lambda e: e.mass + e.now * e.now,
         "h2o.decay": lambda e: 0.95 * e.mass + e.now, "tova": lambda e: e.now}
REDUCERS = {"mean": np.mean, "sum": np.sum, "max": np.max, "min": np.min}


class AttentiveReplay(Replay):
    """The trace has `qkv`: of each request (q [token][layer][query head][d], k [token][layer][KV head][d])."""

    automatic = "none"

    def run(self):
        self.attended = set()  # requests with a query in the step
        return super().run()

    def attend(self, r, l, pos, chosen):
        """One softmax for a query head over what it reads anywhere. Weights of the heads of a group are reduced, then summed over the step's queries."""
        self.attended.add(r)
        for rank in {self.owner(e.where[2]) for e in chosen}:
            self.send(self.home(r), rank, "lse", 4 * self.heads_of(rank)[0])
        parts = defaultdict(list)
        for e in chosen:
            parts[self.owner(e.where[2]) if self.layout == "head" else 0, e.where[3]].append(e)
        q, k = self.t["qkv"][r]
        for (rank, g), entries in parts.items():
            heads, of = zip(*self.query_heads(rank, g))
            x = (k[[e.pos for e in entries], l][:, of] * q[pos, l, heads]).sum(axis=-1) / np.sqrt(self.m["d_k"])
            x = np.exp(x - x.max(axis=0))
            for e, a in zip(entries, REDUCERS[self.s.get("eviction.head_reducer", "mean")](x / x.sum(axis=0), axis=1)):
                e.now, e.seen = e.now + a, e.seen + 1

    def learn(self):
        """A step with queries counts for all entries, also those that none read."""
        for where, chains in self.lists.items():
            if where[0] in self.attended:
                for e in (e for chain in chains.values() for e in chain.history if e.alive):
                    e.mass, e.now = RULES[self.policy](e), 0.0
        self.attended.clear()

    def victims(self, key, pages):
        """The least first, of equal ones the oldest."""
        if self.by_token:
            return iter(sorted((e for page in pages for e in page.living() if not self.stays(e)), key=lambda e: (self.score(e), e.pos)))
        free = [page for page in pages if not self.pinned(page) and not any(self.stays(e) for e in page.living())]
        reduce = REDUCERS[self.s.get("eviction.page_reducer", "mean")]
        return iter(sorted(free, key=lambda p: (reduce([self.score(e) for e in p.living()]), min(e.pos for e in p.living()))))

    def score(self, e):
        return e.mass / max(1, e.seen) if self.policy == "h2o.mean_seen" else e.mass
