"""Where entries of a small replay lie and how large they are, written from the definitions: experts of keys, maps, heads, budgets."""
from collections import Counter
from fractions import Fraction

MASK = (1 << 64) - 1
NEVER = -1


def mix(x):
    """The splitmix64 finaliser."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def hashed(seed, *words):
    h = mix(seed)
    for word in words:
        h = mix(h ^ word)
    return h


class Entry:
    """One stored copy of (request, layer, position, head group); `mates` are the copies of its token, itself too."""

    def __init__(self, pos, names, where, chain, mates, born):
        self.pos, self.names, self.where, self.chain, self.mates, self.born = pos, names, where, chain, mates, born
        self.alive, self.gone = True, NEVER
        self.mass, self.now, self.seen = 0.0, 0.0, 0  # attention: what the rule keeps, that of the step, queries that read it
        mates.append(self)


class Page:
    def __init__(self, where, born):
        self.where, self.born, self.turn, self.last, self.count, self.mark = where, born, born, born, 0, False
        self.entries, self.appended, self.read = [], NEVER, NEVER
        self.away, self.entered, self.returned, self.used = False, NEVER, False, NEVER  # tiers; steps of the last entry and of the last read
        self.low, self.high = MASK, NEVER  # of the positions that it ever held

    def living(self):
        return [e for e in self.entries if e.alive]


class Chain:
    """Pages of one expert, or of any, of a list. `history` is every entry in the order of writing: look-ups are of its pages."""

    def __init__(self):
        self.pages, self.holes, self.history, self.looked = [], [], [], set()


class Geometry:
    """`settings` are those of the command line (budgets are pairs (kind, amount)); `trace` is a dictionary that holds
    model (n_layers, n_heads, n_kv_heads, d_k, d_v, d_c, attention [full, none or a window]), n_experts, top_k, moe_layers, and of requests
    prompt, output and experts [request][token][MoE layer][k], where 255 is an absent expert."""

    def __init__(self, settings, trace):
        self.s, self.t, self.m = settings, trace, trace["model"]
        get = settings.get
        self.ranks = get("cluster.ranks", 1)
        self.shards = self.ranks * get("cluster.shards_per_rank", 1)
        self.per_node = get("cluster.network.ranks_per_node", 8)
        self.n_experts, self.top_k, self.moe = trace["n_experts"], trace["top_k"], trace["moe_layers"]
        self.layers = [l for l in range(self.m["n_layers"]) if self.m["attention"][l] != "none"]
        self.seed = get("seed", 1)
        self.layout = get("placement.layout", "local")
        self.map = get("placement.map", {"expert": "expert_affine", "token": "block_cyclic"}.get(self.layout, "none"))
        self.dedup = get("placement.dedup", "none")
        self.by_expert = get("page.key", "expert" if self.layout == "expert" and self.dedup == "none" else "shard") == "expert"
        self.slots = get("page.slots", 16 if self.by_expert else 64)
        self.n_groups = get("page.head_groups", 1)
        self.element = 4 if get("payload.element") == "fp32" else 2
        self.mla = self.m["d_c"] > 0
        self.homes = {}
        self.copies_rule = get("read.copies", "surviving")

    def owner(self, shard):
        return shard * self.ranks // self.shards

    def node(self, rank):
        return rank // self.per_node

    def home(self, r):
        return self.homes[r]

    def shard_on(self, rank, r):
        """The shard of a rank that takes a request which is spread over no others: requests by turns."""
        first, end = (-(-g * self.shards // self.ranks) for g in (rank, rank + 1))
        return first + r // self.ranks % (end - first)

    def xor(self, t, e):
        s = (t % (self.s.get("placement.n_tok", 0) or self.shards)) ^ (e % (self.s.get("placement.n_exp", 0) or self.shards))
        return s % self.shards if self.s.get("placement.fold") else s

    def expert_shard(self, pos, e):
        if self.map == "pikv_xor":
            return self.xor(pos, e)
        return hashed(self.seed, 0x65, e) % self.shards if self.map == "hash" else e * self.shards // self.n_experts

    def token_shard(self, r, pos):
        if self.map == "pikv_xor":
            return self.xor(pos, 0)
        if self.map == "hash":
            return hashed(self.seed, 0x74, r, pos) % self.shards
        return (hashed(self.seed, 0x62, r) + pos // self.slots) % self.shards

    def key(self, r, pos, l):
        """Experts that name where a token lies at a layer and what its query reads; none at a layer without experts."""
        if l not in self.moe:
            return []
        row, token, how = self.moe.index(l), pos, self.s.get("routing.key", "previous_layer")
        if how == "previous_token" or how == "previous_layer" and row == 0:
            token -= 1
        elif how == "previous_layer":
            row -= 1
        if token < 0:
            first = hashed(self.seed, 0x6B, r, row)
            return [(first + j) % self.n_experts for j in range(self.top_k)]
        return [e for e in self.t["experts"][r][token][row] if e < self.n_experts]

    def copies(self, r, pos, l):
        """[(shard, experts that the copy stands for)] of a token."""
        experts = self.key(r, pos, l)
        if self.layout == "token":
            return [(self.token_shard(r, pos), experts)]
        if self.layout in ("head", "replicated"):
            return [(self.shard_on(g, r), experts) for g in range(self.ranks)]
        if self.layout == "local" or not experts:
            return [(self.shard_on(self.home(r), r), experts)]
        out = []
        for e in experts:
            shard = self.expert_shard(pos, e)
            for have, names in out:
                if self.dedup == "shard" and have == shard or self.dedup == "rank" and self.owner(have) == self.owner(shard):
                    names.append(e)
                    break
            else:
                out.append((shard, [e]))
        return out

    def copy_order(self, entry):
        """Of the copies of a token a query reads the one with the smallest."""
        r, l, shard, _ = entry.where
        return hashed(self.seed, 0x63, r, l, entry.pos, entry.names[0]) if entry.names and self.layout == "expert" else 0, shard

    def may_touch(self, query_pos, wanted, rank):
        """Whether a rank may hold what a routed query wants: by the map, for positions up to its own."""
        positions = range(query_pos + 1) if self.map == "pikv_xor" else (0,)
        return any(self.owner(self.expert_shard(pos, e)) == rank for e in wanted for pos in positions)

    def heads_of(self, rank):
        """(number of query heads, KV heads) of a rank."""
        h, kv = self.m["n_heads"], self.m["n_kv_heads"]
        if self.layout != "head":
            return h, list(range(kv))
        if kv >= self.ranks:
            n, first = kv // self.ranks + (rank < kv % self.ranks), rank * (kv // self.ranks) + min(rank, kv % self.ranks)
            return n * h // kv, list(range(first, first + n))
        head = rank * kv // self.ranks  # more ranks than KV heads: those of a head divide its query heads
        sharing = [g for g in range(self.ranks) if g * kv // self.ranks == head]
        return h // kv // len(sharing) + (rank - sharing[0] < h // kv % len(sharing)), [head]

    def query_heads(self, rank, group):
        """[(query head, its KV head)] of a head group that a rank has."""
        first, kv = sum(self.heads_of(before)[0] for before in range(rank)) if self.layout == "head" else 0, self.m["n_kv_heads"]
        pairs = [(head, head * kv // self.m["n_heads"]) for head in range(first, first + self.heads_of(rank)[0])]
        return [(head, of) for head, of in pairs if of * self.n_groups // kv == group]

    def holds_first(self, rank):
        """Whether no rank before it holds the same."""
        if rank == 0 or self.layout not in ("head", "replicated"):
            return True
        return self.layout == "head" and self.heads_of(rank)[1] != self.heads_of(rank - 1)[1]

    def groups(self, rank):
        """Head group -> how many of its KV heads the rank holds."""
        return Counter(head * self.n_groups // self.m["n_kv_heads"] for head in self.heads_of(rank)[1])

    def row_bytes(self):
        """K and V of one KV head; of MLA the latent row."""
        return (self.m["d_k"] if self.mla else self.m["d_k"] + self.m["d_v"]) * self.element

    def entry_bytes(self, shard, g):
        return self.groups(self.owner(shard))[g] * self.row_bytes()

    def block_bytes(self, shard, g):
        """A page: a block for each KV head, aligned to 128 bytes."""
        return self.groups(self.owner(shard))[g] * (-(-self.slots * self.row_bytes() // 128) * 128)

    def budget(self, where):
        """Units that the entries of a (request, layer, shard, head group) may hold, or those of a shard."""
        kind, n = self.s["eviction.budget"]
        r, l, shard, _ = where
        if self.s.get("eviction.scope") == "shard":
            return n
        if kind == "fraction":
            n = int(n * (self.t["prompt"][r] + self.t["output"][r]) + Fraction(1, 2))
        if self.layout in ("local", "head", "replicated") or self.layout == "expert" and l not in self.moe:
            return n
        weights = Counter(range(self.shards))
        if self.layout == "expert":
            n *= min(self.top_k, {"shard": self.shards, "rank": self.ranks}.get(self.dedup, self.top_k)) if kind in ("fraction", "tokens") else 1
            if self.map != "pikv_xor":
                weights = Counter(self.expert_shard(0, e) for e in range(self.n_experts))
        total = sum(weights.values())
        left = n - sum(n * weights[s] // total for s in range(self.shards))
        largest = sorted(range(self.shards), key=lambda s: (-(n * weights[s] % total), s))[:left]
        return n * weights[shard] // total + (shard in largest)
