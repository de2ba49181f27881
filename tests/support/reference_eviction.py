"""Which entries of a slow replay leave after a step."""
from collections import defaultdict
from fractions import Fraction

from reference_geometry import Geometry

RULE_BYTES = {"lfu": 16}  # of a page, which a budget of bytes counts; of rules with a queue 12


class Eviction(Geometry):
    """Of the state of a Replay: lists, pages, counters."""

    def evict(self):
        """What is due after the step. Nobody reads it any more; owners of other copies hear of it in the next exchange."""
        budgets = defaultdict(list)
        for where in sorted(self.lists):
            budgets[where[2] if self.s.get("eviction.scope") == "shard" else where].append(where)
        for key in self.done_with:  # shards
            budgets.setdefault(key, [(None, None, key, None)])
        for key, wheres in budgets.items():
            budget, kind = self.budget(wheres[0]), self.s["eviction.budget"][0]
            pages = self.all_pages([where for where in wheres if where in self.lists])
            weight = {"pages": lambda p: 1, "bytes": lambda p: self.block_bytes(*p.where[2:]) + RULE_BYTES.get(self.policy, 12)}.get(
                kind, lambda p: len(p.living()))
            held = sum(map(weight, pages))
            self.count["steps_under_pressure"] += held > budget
            at_once = sum(map(weight, self.needed(key, wheres)))
            target = self.due(held, budget, wheres[0])
            units = self.victims(key, pages) if target is not None else iter([])
            while target is not None and held > target and (unit := next(units, None)) is not None:
                held -= 1 if self.by_token else weight(unit)
                for e in [unit] if self.by_token else unit.living():
                    self.drop(e)
            self.count["overcommit"] += max(0, held - budget if target is not None else 0, at_once - budget)

    def needed(self, key, wheres):
        """Pages that the step could not do without, whatever leaves after it."""
        return []

    def due(self, held, budget, where):
        """Units to come down to; None: nothing is due."""
        trigger = self.s.get("eviction.trigger", "on_full")
        if trigger == "watermark":
            return int(budget * self.s.get("eviction.low_watermark", Fraction(9, 10))) if held > budget else None
        waits = trigger == "every" and (self.step + 1) % self.s.get("eviction.every_steps", 32) != 0
        waits |= trigger == "prefill_end" and self.s.get("eviction.scope") != "shard" and self.done[where[0]] != self.t["prompt"][where[0]]
        return budget if held > budget and not waits else None

    def victims(self, key, pages):
        """Units in the order in which they go; queues pass over what is protected or pinned."""
        if self.by_token:
            return iter(sorted((e for page in pages for e in page.living() if not self.stays(e)), key=lambda e: e.born))
        free = [page for page in pages if not self.pinned(page) and not any(self.stays(e) for e in page.living())]
        if self.policy in ("clock", "sieve"):
            return self.second_chances(key, free, pages)
        order = {"lru": lambda p: p.last, "mru": lambda p: -p.last, "lfu": lambda p: (p.count, p.born)}.get(self.policy, lambda p: p.born)
        return iter(sorted(free, key=order))

    def second_chances(self, key, free, pages):
        """clock puts a marked unit back as new and sieve's hand passes it; both take the mark."""
        free = set(free)
        while free:
            line = sorted((p for p in pages if p in free or p.living()), key=lambda p: p.turn)
            line = [p for p in line if p.turn > self.hands.get(key, 0)] + [p for p in line if p.turn <= self.hands.get(key, 0)]
            page = next(p for p in line if p in free)
            self.hands[key] = page.turn if self.policy == "sieve" else 0
            if page.mark:
                page.mark = False
                page.turn = self.tick() if self.policy == "clock" else page.turn
                continue
            free.remove(page)
            if page.turn == max(p.turn for p in line):  # past the newest the hand starts anew
                self.hands[key] = 0
            yield page

    def stays(self, e):
        """Protected: among the first or last tokens. Pinned: what the step appended unless it ended the prompt; while a prompt lasts, all of it."""
        r, sinks = e.where[0], self.s.get("eviction.protect.sinks", 4)
        n, prompt = self.done[r], self.t["prompt"][r]
        sinks = max(sinks, self.s.get("eviction.start", 4)) if self.policy == "streaming" else sinks
        if e.pos < sinks or e.pos >= n - self.s.get("eviction.protect.recent", 32) or n < prompt and self.s.get("prefill.evict", "end") == "end":
            return True
        return n != prompt and r in self.began and e.pos >= self.began[r]

    def pinned(self, page):
        """A page with room that the step appended to or read."""
        return len(page.entries) < self.slots and self.step in (page.appended, page.read)

    def drop(self, e):
        e.alive, e.gone = False, self.step
        self.count["evictions"] += 1
        e.chain.holes += [(e.page, e.page.entries.index(e))] if self.by_token else []
        if not e.page.living():
            e.chain.pages.remove(e.page)
            e.chain.holes = [hole for hole in e.chain.holes if hole[0] is not e.page]
        told = {self.owner(mate.where[2]) for mate in e.mates if mate is not e and (mate.alive or mate.gone == self.step)}
        self.notices.update((self.owner(e.where[2]), rank) for rank in (told if self.copies_rule != "paper" else ()))
