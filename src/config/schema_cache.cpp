// Keys of where entries lie and how long: cluster, placement, routing, read, page, eviction, compression.
#include "config/custom_keys.hpp"
#include "config/rule_keys.hpp"
#include "config/schema.hpp"

namespace moekv {

void add_cluster_keys(std::vector<Key>& keys) {
  const auto add = [&](Key key) { keys.push_back(std::move(key)); };
  const auto label = [&](Key key) {
    key.decides = false;
    keys.push_back(std::move(key));
  };
  add(field_key("cluster.ranks", "", "logical ranks G; 0 = number of processes", [](auto& s) -> auto& { return s.cluster.ranks; }, {0, 65536}));
  add(field_key("cluster.shards_per_rank", "", "shards of a rank", [](auto& s) -> auto& { return s.cluster.shards_per_rank; }, {1, 65536}));
  label(field_key("cluster.network.name", "", "a file of configs/clusters (without .yaml) or its path; a mere label where source is written in place",
                  [](auto& s) -> auto& { return s.cluster.network.name; }));
  label(field_key("cluster.network.source", "", "where the figures come from", [](auto& s) -> auto& { return s.cluster.network.source; }));
  add(field_key("cluster.network.ranks_per_node", "", "ranks of a node", [](auto& s) -> auto& { return s.cluster.network.ranks_per_node; },
                {1, 65536}));
  add(field_key("cluster.network.intra_node.alpha_us", "us", "cost of a message inside a node",
                [](auto& s) -> auto& { return s.cluster.network.intra_node.alpha_us; }, {0, 1e6}));
  add(field_key("cluster.network.intra_node.bandwidth_gb_s", "GB/s", "per rank and direction",
                [](auto& s) -> auto& { return s.cluster.network.intra_node.bandwidth_gb_s; }, {1e-3, 1e6}));
  add(field_key("cluster.network.inter_node.alpha_us", "us", "cost of a message between nodes",
                [](auto& s) -> auto& { return s.cluster.network.inter_node.alpha_us; }, {0, 1e6}));
  add(field_key("cluster.network.inter_node.bandwidth_gb_s", "GB/s", "per rank and direction",
                [](auto& s) -> auto& { return s.cluster.network.inter_node.bandwidth_gb_s; }, {1e-3, 1e6}));
  add(field_key("cluster.network.host_link.alpha_us", "us", "cost of a batch of pages between a rank's device and its host memory",
                [](auto& s) -> auto& { return s.cluster.network.host_link.alpha_us; }, {0, 1e6}));
  add(field_key("cluster.network.host_link.bandwidth_gb_s", "GB/s", "per rank and direction, for action demote",
                [](auto& s) -> auto& { return s.cluster.network.host_link.bandwidth_gb_s; }, {1e-3, 1e6}));
  add(field_key("cluster.network.memory_bandwidth_gb_s", "GB/s", "memory bandwidth of a rank's modelled device",
                [](auto& s) -> auto& { return s.cluster.network.memory_bandwidth_gb_s; }, {1e-3, 1e6}));
}

namespace {

void add_placement_keys(std::vector<Key>& keys) {
  const auto add = [&](Key key) { keys.push_back(std::move(key)); };
  add(field_key("placement.layout", "", "where an entry is stored; local is the baseline of every saving",
                [](auto& s) -> auto& { return s.placement.layout; }));
  add(field_key("placement.map", "", "default: expert_affine for layout expert, block_cyclic for token, none for the others",
                [](auto& s) -> auto& { return s.placement.map; }));
  add(field_key("placement.dedup", "", "layout expert: one copy per shard or rank instead of one per expert",
                [](auto& s) -> auto& { return s.placement.dedup; }));
  add(field_key("placement.fold", "", "pikv_xor: ids modulo the number of shards, needed where a modulus is not a power of two",
                [](auto& s) -> auto& { return s.placement.fold; }));
  add(field_key("placement.n_tok", "", "pikv_xor: modulus of the position; 0 = number of shards", [](auto& s) -> auto& { return s.placement.n_tok; },
                {0, 1 << 30}));
  add(field_key("placement.n_exp", "", "pikv_xor: modulus of the expert; 0 = number of shards", [](auto& s) -> auto& { return s.placement.n_exp; },
                {0, 1 << 30}));
  add(field_key("placement.replicas", "", "eplb: physical experts of a layer; 0 = the experts, rounded up to a multiple of the shards",
                [](auto& s) -> auto& { return s.placement.replicas; }, {0, max_replicas}));
  add(field_key("placement.load", "",
                "eplb, first plan: loads of the replayed requests, of those before trace.first_request, of a file, or none (window)",
                [](auto& s) -> auto& { return s.placement.load; }));
  add(path_key(
      "placement.load_path", "HDF5 dataset `load` [MoE layers of the trace, experts] for load: file",
      +[](RunSpec& s) -> std::string& { return s.placement.load_path; }));
  add(field_key("placement.replan_every_steps", "steps",
                "eplb: a new plan this often, from what the run chose; pages follow. 0 = one plan for the run",
                [](auto& s) -> auto& { return s.placement.replan_every_steps; }, {0, 1e9}));
  add(field_key("placement.window_steps", "steps", "eplb: a replan counts the choices of this many steps; 0 = replan_every_steps, 4096 at most",
                [](auto& s) -> auto& { return s.placement.window_steps; }, {0, max_window_steps}));
  add(field_key("placement.shadow", "", "eplb: entries of hot experts lie on their home rank; fastermoe: while its cost rule says that copies pay",
                [](auto& s) -> auto& { return s.placement.shadow; }));
  add(field_key("placement.shadow_tflops", "", "fastermoe: 1e12 operations a second of a worker",
                [](auto& s) -> auto& { return s.placement.shadow_tflops; }, {1e-6, 1e6}));
  add(field_key("placement.shadow_alpha", "1", "fastermoe: hidden width of an expert over model.hidden",
                [](auto& s) -> auto& { return s.placement.shadow_alpha; }, {1e-3, 1e3}));
  add(field_key("placement.home", "", "home rank of a request: its index modulo ranks, or the rank with least work",
                [](auto& s) -> auto& { return s.placement.home; }));
  add(field_key("placement.dense_layers", "", "layout expert: where layers without experts hold their KV",
                [](auto& s) -> auto& { return s.placement.dense_layers; }));
}

void add_read_keys(std::vector<Key>& keys) {
  const auto add = [&](Key key) { keys.push_back(std::move(key)); };
  add_rule_keys<RouteRule>(keys, "routing", "router", "recorded replays the trace; every other router chooses anew from logits or hashes",
                           [](RunSpec& s) { return std::vector<RouteRule*>{&s.routing.rule}; });
  add(field_key("routing.key", "", "whose experts name where an entry lies and what a query reads; same_layer is acausal with recorded routing",
                [](auto& s) -> auto& { return s.routing.key; }));
  add(path_key(
      "routing.query_router_path", "HDF5 matrix [n_experts, d_k] for key query_router; default: seeded",
      +[](RunSpec& s) -> std::string& { return s.routing.query_router_path; }));
  add(field_key("read.scope", "", "routed: a query reads only the experts of its key", [](auto& s) -> auto& { return s.read.scope; }));
  add_rule_keys<SelectRule>(keys, "read", "select", "which resident pages of the scope a query reads",
                            [](RunSpec& s) { return std::vector<SelectRule*>{&s.read.select}; });
  add(field_key("read.copies", "", "which copy of a token counts: a surviving one, the hashed one, or all (the paper, biased)",
                [](auto& s) -> auto& { return s.read.copies; }));
  add(field_key("page.slots", "tokens", "slots P of a page, 8..256; 0 = 16 for page.key expert, 64 for shard",
                [](auto& s) -> auto& { return s.page.slots; }, {0, 256}));
  add(field_key("page.key", "", "expert: a page holds entries of one expert; default for layout expert without dedup",
                [](auto& s) -> auto& { return s.page.key; }));
  add(field_key("page.head_groups", "", "groups of KV heads with slot maps, pages and budgets of their own",
                [](auto& s) -> auto& { return s.page.head_groups; }, {1, 1024}));
}

void add_eviction_keys(std::vector<Key>& keys) {
  const auto add = [&](Key key) { keys.push_back(std::move(key)); };
  add_rule_keys<EvictRule>(keys, "eviction", "policy", "what goes when the budget is full",
                           [](RunSpec& s) { return std::vector<EvictRule*>{&s.eviction.rule}; });
  add(field_key("eviction.scope", "", "what a budget is of", [](auto& s) -> auto& { return s.eviction.scope; }));
  add(field_key("eviction.unit", "",
                "what is evicted at once; auto: the policy's own (moekv list policies), page for a budget in pages or bytes and for action demote",
                [](auto& s) -> auto& { return s.eviction.unit; }));
  add(budget_key());
  add_rule_keys<Allocator>(keys, "eviction.allocator", "name",
                           "how layers and head groups of a request divide the sum of their equal shares; ada, pooled, cake: in each shard",
                           [](RunSpec& s) { return std::vector<Allocator*>{&s.eviction.allocator}; });
  add(path_key(
      "eviction.allocator.path",
      "duo: HDF5 dataset `gates` [layers of the model, KV heads]; file: `shares` [layers, head groups]; or text, a row of numbers for each layer",
      +[](RunSpec& s) -> std::string& { return s.eviction.allocator_path; }));
  add(field_key("eviction.protect.sinks", "tokens", "first tokens that are never victims, inside the budget",
                [](auto& s) -> auto& { return s.eviction.protect.sinks; }, {0, 1 << 30}));
  add(field_key("eviction.protect.recent", "tokens", "last tokens that are never victims, inside the budget",
                [](auto& s) -> auto& { return s.eviction.protect.recent; }, {0, 1 << 30}));
  add(field_key("eviction.access", "",
                "what counts as an access to a page; routed: a query of the step has one of its experts (layers without experts: any query); "
                "selected: one read it",
                [](auto& s) -> auto& { return s.eviction.access; }));
  add(field_key("eviction.access_mass", "1", "access mass: attention on a page from which on it counts",
                [](auto& s) -> auto& { return s.eviction.access_mass; }, {0, 1}));
  add(field_key("eviction.trigger", "", "when evictions are due", [](auto& s) -> auto& { return s.eviction.trigger; }));
  add(field_key("eviction.high_watermark", "1", "trigger watermark: share of the budget that starts evictions ...",
                [](auto& s) -> auto& { return s.eviction.high_watermark; }, {0, 1}));
  add(field_key("eviction.low_watermark", "1", "... and the share at which they stop", [](auto& s) -> auto& { return s.eviction.low_watermark; },
                {0, 1}));
  add(field_key("eviction.every_steps", "", "trigger every: steps between evictions", [](auto& s) -> auto& { return s.eviction.every_steps; },
                {1, 1e9}));
  add(field_key("eviction.action", "", "drop: a victim is lost; demote: it moves to the host tier and comes back when it is read",
                [](auto& s) -> auto& { return s.eviction.action; }));
  add(field_key("eviction.head_reducer", "", "mass of the query heads -> head group", [](auto& s) -> auto& { return s.eviction.head_reducer; }));
  add(field_key("eviction.page_reducer", "", "state of the tokens -> page", [](auto& s) -> auto& { return s.eviction.page_reducer; }));
  add(field_key("eviction.ties", "", "policies that score: which of equal units stays", [](auto& s) -> auto& { return s.eviction.ties; }));
  add(path_key(
      "eviction.weights_path", "HDF5 file of a policy that loads weights: hidden [n, d_k + d_v], out [n], and if given hidden_bias [n], out_bias [1]",
      +[](RunSpec& s) -> std::string& { return s.eviction.weights_path; }));
  add(field_key("eviction.seed", "", "default: seed", [](auto& s) -> auto& { return s.eviction.seed; }));
}

void add_compression_keys(std::vector<Key>& keys) {
  add_rule_keys<Codec>(
      keys, "compression", "codec", "codec of K and V; default: raw in the payload's type",
      [](RunSpec& s) {
        return std::vector<Codec*>{&s.compression.k, &s.compression.v};
      },
      false);
  add_rule_keys<Codec>(keys, "compression.k", "codec", "codec of K", [](RunSpec& s) { return std::vector<Codec*>{&s.compression.k}; });
  add_rule_keys<Codec>(keys, "compression.v", "codec", "codec of V", [](RunSpec& s) { return std::vector<Codec*>{&s.compression.v}; });
  keys.push_back(path_key(
      "compression.maps_path",
      "HDF5 file of loaded codecs: k/down, k/up [layers, heads, rank, d] and k/bias [layers, heads, d], the same of v; 1 layer or head is for all",
      +[](RunSpec& s) -> std::string& { return s.compression.maps_path; }));
  keys.push_back(field_key("compression.sink_tokens", "tokens", "positions below stay raw (compressed codecs only)",
                           [](auto& s) -> auto& { return s.compression.sink_tokens; }, {0, 1 << 20}));
  keys.push_back(field_key("compression.raw_window_tokens", "tokens", "a page is sealed when it is this far behind the newest token",
                           [](auto& s) -> auto& { return s.compression.raw_window_tokens; }, {0, 1 << 20}));
}

}  // namespace

void add_cache_keys(std::vector<Key>& keys) {
  add_placement_keys(keys);
  add_read_keys(keys);
  add_eviction_keys(keys);
  add_compression_keys(keys);
}

}  // namespace moekv
