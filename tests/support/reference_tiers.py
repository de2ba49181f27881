"""A slow replay with a host tier: victims go there as whole pages and come back where they are read or appended to. Rules lru and fifo."""
from reference_replay import Replay


class DemotingReplay(Replay):
    def all_pages(self, wheres=None):
        return [page for page in super().all_pages(wheres) if not page.away]

    def place(self, chain, entry):
        super().place(chain, entry)
        page = entry.page
        if page.away:
            page.entries.pop()
            self.recall(page)
            page.entries.append(entry)
        elif len(page.entries) == 1:
            self.enter(page)

    def enter(self, page):
        page.entered = self.step
        self.accesses.append((self.turn_of(page), page))

    def turn_of(self, page):
        e = page.entries[0]
        name = e.names[0] if self.by_expert and e.names else self.n_experts
        return (*page.where[:2], page.where[3], name, page.low)

    def recall(self, page):
        page.away, page.returned = False, True
        self.enter(page)
        self.count.update({"recalls": len(page.entries), "recalled_pages": 1, "recalled_bytes": self.block_bytes(*page.where[2:])})

    def attend(self, r, l, pos, chosen):
        for page in {id(e.page): e.page for e in chosen}.values():
            page.used = self.step
            if page.away:
                self.recall(page)

    def look_up(self, r, l, wanted):
        """Hits are pages that lay here before they were read. One that entered in the step is accessed by entering."""
        for where, chains in self.lists_of(r, l):
            rank, home = self.owner(where[2]), self.home(r)
            if self.layout == "replicated" and rank != home:
                continue
            size = self.entry_bytes(where[2], where[3])
            for chain in chains.values():
                for i, page in enumerate(chain.pages):
                    if l in self.moe and not wanted & {e for entry in page.entries for e in entry.names}:
                        continue
                    entered, n = page.entered == self.step, len(page.entries)
                    hit = not page.away and not (entered and page.returned)
                    self.count.update({"n_req": 1, "n_hit" if hit else "n_miss": 1, "requested_entries": n, "requested_bytes": size * n,
                                       "missed_entries": 0 if hit else n, "missed_bytes": 0 if hit else size * n, "first_lookups": i not in chain.looked})
                    near = "hit_local" if rank == home else "hit_node" if self.node(rank) == self.node(home) else "hit_remote"
                    self.count[near if hit else "hit_host"] += 1
                    chain.looked.add(i)
                    if not page.away and not entered:
                        self.accesses.append((self.turn_of(page), page))

    def access(self, page):
        super().access(page)
        if page.entered == self.step:
            page.born = page.last

    def needed(self, key, wheres):
        return [page for page in self.all_pages([where for where in wheres if where in self.lists]) if page.used == self.step] + self.done_with.pop(key, [])

    def drop(self, e):
        if not e.page.away:
            e.page.away = True
            self.count.update({"demoted_pages": 1, "demoted_bytes": self.block_bytes(*e.page.where[2:])})
        self.count.update({"evictions": 1, "demotions": 1})

    def finish(self, r):
        pages = [page for where in self.lists if where[0] == r for page in Replay.all_pages(self, [where]) if page.away]
        self.count["host_finished_entries"] += sum(len(page.entries) for page in pages)
        if self.s.get("eviction.scope") == "shard":
            for where in [where for where in self.lists if where[0] == r]:
                pages = [page for page in self.all_pages([where]) if page.used == self.step]
                if pages:
                    self.done_with.setdefault(where[2], []).extend(pages)
        super().finish(r)

    def take_levels(self):
        """Tokens in the host tier are kept."""
        super().take_levels()
        for page in Replay.all_pages(self):
            if page.away:
                shard, g = page.where[2:]
                self.count.update({"host_entries": len(page.entries), "host_bytes": self.block_bytes(shard, g)})
                first = self.holds_first(self.owner(shard)) and self.copies_rule != "paper"
                self.count["resident_distinct"] += first and sum(map(self.stands_first, page.entries))
