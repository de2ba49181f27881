"""Quest in a slow replay: the pages whose key bounds promise most."""
from collections import defaultdict

import numpy as np

from reference_replay import Replay


class SelectiveReplay(Replay):
    """The trace has `qkv`, as that of an AttentiveReplay."""

    def select(self, r, l, pos, chosen, pages):
        """Of each (shard, head group) `kernel` reads the page of the newest token and the best of the others, `accuracy` the best, three at least."""
        if l < self.s["read.dense_layers"] or pos < self.t["prompt"][r] and self.s["read.prompt"] == "dense":
            return chosen, pages
        offered = defaultdict(dict)
        for e in chosen:
            newest = offered[e.where].setdefault(id(e.page), [e.page, e.pos])
            newest[1] = max(newest[1], e.pos)
        kept, budget = {}, self.s["read.budget_pages"]
        for where, of in offered.items():
            n = budget if self.s["read.variant"] == "kernel" else max(3, budget)
            rest = sorted(of.values(), key=lambda item: -self.bound(item[0], r, l, pos))
            if self.s["read.variant"] == "kernel":
                first = min(of.values(), key=lambda item: (-item[1], item[0].entries[0].names))[0]  # of copies that all count the first expert's
                rest.sort(key=lambda item: item[0] is not first)
            kept.update((id(page), page) for page, _ in rest[:n])
            self.count.update({"pages_considered": len(of), "pages_selected": min(n, len(of))})
        return [e for e in chosen if id(e.page) in kept], list(kept.values())

    def bound(self, page, r, l, pos):
        """Of the heads of its group that the rank has."""
        q, k = self.t["qkv"][r]
        heads, of = zip(*self.query_heads(self.owner(page.where[2]), page.where[3]))
        keys, row = k[[e.pos for e in page.entries], l][:, of], q[pos, l, heads]
        bounds = np.maximum(row * keys.min(axis=0), row * keys.max(axis=0)).sum(axis=-1)
        return max(bounds) if self.s["read.heads"] == "max" else sum(bounds)
