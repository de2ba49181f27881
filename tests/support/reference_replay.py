"""A slow replay of small traces: every entry is an object, every counter a loop over them. Written from the definitions, not from the program."""
from collections import Counter, defaultdict

from reference_eviction import Eviction
from reference_geometry import Chain, Entry, Page


class Replay(Eviction):
    """run() fills `steps`: for each step counters, loads (what, id, field) and traffic (source, destination, what); and `requests`: first, last step."""

    automatic = "auto"  # prefill.queries that make none

    def run(self):
        self.policy, self.by_token = self.s.get("eviction.policy", "full"), self.s.get("eviction.unit") == "token"
        self.steps, self.requests, self.active, self.done, self.waiting = [], {}, [], {}, 0
        self.done_with = {}  # shard -> pages that the step read and that went with their requests
        self.lists, self.clock, self.notices, self.hands = {}, 0, Counter(), {}  # lists: (request, layer, shard, head group) -> {expert or None: Chain}
        while batch := self.batch():
            self.step, self.count, self.load, self.traffic = len(self.steps), Counter(), Counter(), Counter()
            for (source, destination), n in self.notices.items():
                self.send(source, destination, "notices", 8 * n)
            self.notices.clear()
            self.began, self.accesses = {r: first for r, first, _ in batch}, []
            for l in self.layers:
                self.layer_step(l, batch)
            for page in self.all_pages():
                self.load["shard", page.where[2], "peak_bytes"] += self.block_bytes(*page.where[2:])
            for _, page in sorted(self.accesses, key=lambda access: access[0]):  # by request, layer, head group, expert, first position
                self.access(page)
            self.learn()
            for r, first, n in batch:
                self.requests.setdefault(r, [self.step, self.step])[1] = self.step
                self.done[r] = first + n
                self.count["prefill_tokens" if first < self.t["prompt"][r] else "decode_tokens"] += n
            for r in [r for r in self.active if self.done[r] == self.t["prompt"][r] + self.t["output"][r]]:
                self.finish(r)
            if self.policy != "full":
                self.evict()
            self.take_levels()
            self.steps.append((self.count, self.load, self.traffic))
        return self

    def tick(self):
        self.clock += 1
        return self.clock

    def access(self, page):
        page.last, page.mark, page.count = self.tick(), True, page.count + 1

    def batch(self):
        """[(request, first position, tokens)] of the next step: output tokens first, then chunks of prompts, while there is room."""
        room = self.s.get("batch.max_num_batched_tokens", 2048)
        seqs = self.s.get("batch.max_num_seqs", min(64, room))
        while self.waiting < len(self.t["prompt"]) and len(self.active) < min(seqs, self.s.get("batch.concurrency", min(8, seqs))):
            self.homes[self.waiting] = self.choose_home(self.waiting)
            self.active.append(self.waiting)
            self.done[self.waiting] = 0
            self.waiting += 1
        out = []
        for prompts in (False, True):
            for r in self.active:
                left = self.t["prompt"][r] - self.done[r]
                if (left > 0) == prompts:
                    n = min(room, left, self.s.get("prefill.chunk_tokens", 512)) if prompts else min(room, 1)
                    out += [(r, self.done[r], n)] if n else []
                    room -= n
        return sorted(out)

    def choose_home(self, r):
        if self.s.get("placement.home", "modulo") == "modulo":
            return r % self.ranks
        left = Counter({g: 0 for g in range(self.ranks)})
        for a in self.active:
            left[self.homes[a]] += self.t["prompt"][a] + self.t["output"][a] - self.done[a]
        return min(left, key=lambda g: (left[g], g))

    def send(self, source, destination, what, n):
        self.traffic[source, destination, what] += n
        self.count["bytes"] += n
        if source == destination:
            self.count["self"] += n
        else:
            self.count["wire_" + what] += n

    def lists_of(self, r, l):
        return [(where, chains) for where, chains in self.lists.items() if where[:2] == (r, l)]

    def layer_step(self, l, batch):
        for r, first, n in sorted(batch, key=lambda item: (self.home(item[0]), item)):  # messages are unpacked in the order of their senders
            for pos in range(first, first + n):
                self.store(r, l, pos)
                if l in self.moe:
                    for e in self.t["experts"][r][pos][self.moe.index(l)]:
                        self.load["expert", e, "load"] += e < self.n_experts
        for r, first, n in batch:
            prompt, how = self.t["prompt"][r], self.s.get("prefill.queries", "auto")
            asks = prompt if how in (self.automatic, "none") else 0 if how in ("auto", "all") else prompt - int(how[5:-1])
            asked = range(max(first, asks), first + n)
            for pos in asked:
                self.query(r, l, pos)
            if asked:
                self.look_up(r, l, {e for pos in asked for e in self.key(r, pos, l)})

    def store(self, r, l, pos):
        experts, copies, home = self.key(r, pos, l), self.copies(r, pos, l), self.home(r)
        ranks = {self.owner(shard) for shard, _ in copies}
        self.count.update({"distinct_insertions": 1, "store_ranks": len(ranks), "store_nodes": len({self.node(g) for g in ranks})})
        if self.layout == "expert":
            self.count.update({"chosen_experts": len(experts), "stored_copies" if experts else "stored_home": len(copies)})
            self.count["dedup_merged"] += len(experts) - len(copies) if experts else 0
        mates = defaultdict(list)
        for shard, names in copies:
            self.send(home, self.owner(shard), "kv", self.row_bytes() * len(self.heads_of(self.owner(shard))[1]))
            for g in self.groups(self.owner(shard)):
                where = (r, l, shard, g)
                chain = self.lists.setdefault(where, defaultdict(Chain))[names[0] if self.by_expert and names else None]
                entry = Entry(pos, names, where, chain, mates[g] if self.layout == "expert" else [], self.tick())
                self.place(chain, entry)
                chain.history.append(entry)
                self.count["insertions"] += 1
                self.load["shard", shard, "insertions"] += 1

    def place(self, chain, entry):
        """Into the slot that was left last, else the open page; a page that lost all is gone."""
        if chain.holes:
            page, slot = chain.holes.pop()
            page.entries[slot] = entry
        else:
            if not chain.pages or len(chain.pages[-1].entries) == self.slots:
                chain.pages.append(Page(entry.where, self.tick()))
            page = chain.pages[-1]
            page.entries.append(entry)
        entry.page, page.appended = page, self.step
        page.low, page.high = min(page.low, entry.pos), max(page.high, entry.pos)

    def query(self, r, l, pos):
        """A routed query reads copies under its experts; of a token's copies the first of those that are alive (`hash`: the first, if it is; `paper`: all)."""
        window, wanted, home = self.m["attention"][l], set(self.key(r, pos, l)), self.home(r)
        low, routed = 0 if window == "full" else pos - window + 1, self.s.get("read.scope") == "routed" and l in self.moe
        ranks, found, pages = set(), defaultdict(list), []
        for where, chains in self.lists_of(r, l):
            rank = self.owner(where[2])
            far = self.layout == "replicated" and rank != home
            if far or routed and self.layout == "expert" and not self.may_touch(pos, wanted, rank):
                continue
            if any(e.pos <= pos for chain in chains.values() for e in chain.history):
                ranks.add(rank)
            for name, chain in chains.items():
                for e in chain.history:
                    if low <= e.pos <= pos and (not routed or wanted & set(e.names)):
                        found[where[3], rank if self.layout == "head" else 0, e.pos].append(e)
                pages += [p for p in chain.pages if p.low <= pos and p.high >= low and (not routed or not self.by_expert or name in wanted)]
        chosen = []
        for copies in found.values():
            alive = [e for e in copies if e.alive]
            first = min(copies if self.copies_rule == "hash" else alive, key=self.copy_order, default=None)
            chosen += alive if self.copies_rule == "paper" else [first] if first is not None and first.alive else []
            self.count["masked_copies"] += bool(alive) and self.copies_rule == "hash" and not first.alive
        chosen, pages = self.select(r, l, pos, chosen, pages)
        for page in pages:
            page.read = self.step
            self.count["entries_scanned"] += len(page.living())
            self.load["shard", page.where[2], "load"] += len(page.living())
        sources = {self.owner(e.where[2]) for e in chosen}
        for rank in ranks:
            heads = self.heads_of(rank)[0]
            self.send(home, rank, "q", heads * self.m["d_k"] * self.element)
            if rank in sources:
                self.send(rank, home, "partial", heads * (8 + self.m["d_v"] * (2 if self.s.get("combine.dtype") == "bf16" else 4)))
        self.count.update({"queries": 1, "query_ranks": len(ranks), "query_nodes": len({self.node(g) for g in ranks}), "entries_wanted": len(chosen),
                           "empty_reads": not chosen})
        self.attend(r, l, pos, chosen)

    def select(self, r, l, pos, chosen, pages):
        """Of what a query may read, entries and pages, what it reads."""
        return chosen, pages

    def attend(self, r, l, pos, chosen):
        """What a query reads, for rules that go by attention."""

    def learn(self):
        """At the end of a step, before requests finish."""

    def look_up(self, r, l, wanted):
        """Pages of the full history, dense or those with a wanted expert (at layers without experts all)."""
        every = self.s.get("eviction.access", "routed") == "dense" or l not in self.moe
        for where, chains in self.lists_of(r, l):
            rank, home = self.owner(where[2]), self.home(r)
            if self.layout == "replicated" and rank != home:
                continue
            for name, chain in chains.items():
                touched = set()
                for i in range(0, len(chain.history), self.slots):
                    entries = chain.history[i:i + self.slots]
                    if not every and not wanted & {e for entry in entries for e in entry.names}:
                        continue
                    live = [e for e in entries if e.alive]
                    touched.update(e.page for e in live)
                    size, lost = self.entry_bytes(where[2], where[3]), len(entries) - len(live)
                    self.count.update({"n_req": 1, "n_hit" if live else "n_miss": 1, "requested_entries": len(entries), "missed_entries": lost,
                                       "requested_bytes": size * len(entries), "missed_bytes": size * lost, "first_lookups": i not in chain.looked})
                    if live:
                        self.count["hit_local" if rank == home else "hit_node" if self.node(rank) == self.node(home) else "hit_remote"] += 1
                    chain.looked.add(i)
                place = (r, l, where[3], self.n_experts if name is None else name)
                self.accesses += [((*place, page.low), page) for page in touched]

    def finish(self, r):
        self.active.remove(r)
        for where in [where for where in self.lists if where[0] == r]:
            self.count["finished_entries"] += sum(e.alive for chain in self.lists.pop(where).values() for e in chain.history)

    def all_pages(self, wheres=None):
        return [page for where in (self.lists if wheres is None else wheres) for chain in self.lists[where].values() for page in chain.pages]

    def take_levels(self):
        distinct = set()
        for page in self.all_pages():
            shard, g = page.where[2:]
            living, size = page.living(), self.block_bytes(shard, g)
            self.count.update({"resident_entries": len(living), "used_slots": len(living), "allocated_pages": 1, "kv_bytes_stored": size,
                               "kv_bytes_raw": len(living) * self.entry_bytes(shard, g)})
            self.load["shard", shard, "resident_bytes"] += size
            if self.holds_first(self.owner(shard)):
                distinct.update((*page.where, e.pos) if self.layout == "head" else (*page.where[:2], g, e.pos) for e in living if self.stands_first(e))
        known = self.copies_rule != "paper"
        written = sum(n for r, n in self.done.items() if r in self.active) * len(self.layers) * known
        parts = [len(self.groups(g)) for g in range(self.ranks if self.layout == "head" else 1) if self.holds_first(g)]
        self.count.update({"resident_distinct": len(distinct) * known, "written_distinct": written * sum(parts)})

    def stands_first(self, e):
        """Among the copies of its token: owners of other copies know of an eviction from the next step on."""
        return all(not m.alive and m.gone < self.step or self.copy_order(e) <= self.copy_order(m) for m in e.mates)
