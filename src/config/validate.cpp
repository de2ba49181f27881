// Where problems of combinations are placed, and the combinations of model, placement and pages.
#include "config/validate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "config/names.hpp"
#include "config/rule_keys.hpp"
#include "engine/expert_plan.hpp"

namespace moekv {

bool Checks::failed(const std::string& key) const {
  if (input_.tree.failed.contains(key)) return true;
  for (std::size_t dot = key.find('.'); dot != std::string::npos; dot = key.find('.', dot + 1)) {
    if (input_.tree.failed.contains(key.substr(0, dot))) return true;
  }
  return false;
}

void Checks::refuse(std::initializer_list<const char*> keys, const std::string& what, std::string suggestion) {
  if (std::any_of(keys.begin(), keys.end(), [&](const char* key) { return failed(key); })) return;
  Problem problem{input_.path, {}, {}};
  for (const char* key : keys) {
    const auto it = input_.tree.given.find(key);
    if (it == input_.tree.given.end()) continue;
    problem = problem_at(it->second->at, {}, {});
    break;
  }
  problem.what = fmt::format("{}: {}", *keys.begin(), what);
  problem.suggestion = std::move(suggestion);
  problems_.push_back(std::move(problem));
}

bool needs_mass(const RunSpec& spec) {
  return spec.eviction.access == AccessSource::mass || std::visit(
                                                           [](const auto& rule) {
                                                             return evict::needs_mass<std::decay_t<decltype(rule)>>;
                                                           },
                                                           spec.eviction.rule);
}

bool needs_logits(const RunSpec& spec) {
  return std::visit([](const auto& rule) { return rule.needs_logits; }, spec.routing.rule);
}

std::uint32_t page_slots(const RunSpec& spec) {
  if (spec.page.slots > 0) return spec.page.slots;
  const bool by_expert = spec.page.key == PageKey::expert ||
                         (spec.page.key == PageKey::automatic && spec.placement.layout == Layout::expert && spec.placement.dedup == Dedup::none);
  return by_expert ? 16 : 64;
}

namespace {

void check_gate(Checks& c) {
  const GateShape& gate = c.spec().model.gate;
  if (gate.n_experts == 0) c.refuse({"model.gate.n_experts", "model"}, "missing required key", "number of routed experts of a MoE layer, 1..896");
  if (gate.top_k == 0) c.refuse({"model.gate.top_k", "model"}, "missing required key", "experts chosen per token, 1..22");
  if (gate.n_experts == 0 || gate.top_k == 0) return;
  if (gate.top_k > gate.n_experts) {
    return c.refuse({"model.gate.top_k", "model.gate.n_experts"}, fmt::format("a token cannot choose {} of {} experts", gate.top_k, gate.n_experts),
                    "top_k is at most n_experts");
  }
  if (gate.n_experts % gate.n_group != 0)
    c.refuse({"model.gate.n_group", "model.gate.n_experts"}, fmt::format("{} groups do not divide {} experts", gate.n_group, gate.n_experts),
             "use a divisor of n_experts");
  if (gate.topk_group > gate.n_group)
    c.refuse({"model.gate.topk_group", "model.gate.n_group"}, fmt::format("cannot keep {} of {} groups", gate.topk_group, gate.n_group),
             "topk_group is at most n_group");
  else if (gate.topk_group * (gate.n_experts / gate.n_group) < gate.top_k) {
    c.refuse({"model.gate.topk_group", "model.gate.top_k"},
             fmt::format("{} groups of {} experts hold fewer than top_k = {}", gate.topk_group, gate.n_experts / gate.n_group, gate.top_k),
             "keep more groups");
  }
}

void check_heads(Checks& c) {
  const ModelShape& m = c.spec().model;
  if (m.hidden == 0) c.refuse({"model.hidden", "model"}, "missing required key", "width of the residual stream");
  if (m.n_heads == 0) c.refuse({"model.n_heads", "model"}, "missing required key", "number of query heads");
  if (m.n_kv_heads == 0) c.refuse({"model.n_kv_heads", "model"}, "missing required key", "number of KV heads (MLA needs none)");
  if (m.d_k == 0 || m.d_v == 0) c.refuse({"model.head_dim", "model"}, "missing required key", "give head_dim, d_k and d_v, or latent for MLA");
  if (m.n_heads > 0 && m.n_kv_heads > 0 && m.n_heads % m.n_kv_heads != 0) {
    c.refuse({"model.n_kv_heads", "model.n_heads"}, fmt::format("{} KV heads do not divide {} query heads", m.n_kv_heads, m.n_heads),
             "grouped-query attention shares a KV head between equally many query heads");
  }
  if (!m.mla()) return;
  if (m.n_kv_heads != 1)
    c.refuse({"model.n_kv_heads", "model.latent.d_c"}, fmt::format("MLA has one latent for all heads, not {} KV heads", m.n_kv_heads),
             "remove n_kv_heads");
  if (m.d_k != m.latent.d_c + m.latent.d_rope || m.d_v != m.latent.d_c) {
    c.refuse({"model.d_k", "model.d_v", "model.head_dim", "model.latent.d_c"},
             fmt::format("MLA stores d_k = d_c + d_rope = {} and reads d_v = d_c = {}", m.latent.d_c + m.latent.d_rope, m.latent.d_c),
             "remove d_k, d_v and head_dim; latent gives them");
  }
}

bool power_of_two(std::uint64_t n) { return n > 0 && (n & (n - 1)) == 0; }

void check_xor(Checks& c) {
  const PlacementSpec& p = c.spec().placement;
  const std::uint64_t shards = std::uint64_t{c.spec().cluster.ranks} * c.spec().cluster.shards_per_rank;
  const std::uint64_t n_tok = p.n_tok > 0 ? p.n_tok : shards, n_exp = p.n_exp > 0 ? p.n_exp : shards;
  if (!power_of_two(n_tok) || !power_of_two(n_exp)) {
    c.refuse({"placement.map", "placement.n_tok", "placement.n_exp", "placement.fold", "cluster.ranks"},
             fmt::format("pikv_xor leaves its range where a modulus is not a power of two (n_tok {}, n_exp {})", n_tok, n_exp),
             "set placement.fold: true, or make both powers of two");
  } else if (std::max(n_tok, n_exp) > shards) {
    c.refuse({"placement.map", "placement.n_tok", "placement.n_exp", "placement.fold", "cluster.ranks"},
             fmt::format("pikv_xor names shards 0..{} but there are {}", std::max(n_tok, n_exp) - 1, shards),
             "set placement.fold: true, or use moduli up to the number of shards");
  }
}

/// What moves when plans change.
void check_replan(Checks& c) {
  const RunSpec& s = c.spec();
  const PlacementSpec& p = s.placement;
  if (p.replan_every_steps == 0) {
    const char* key = p.load == LoadSource::window ? "placement.load" : "placement.window_steps";
    if (p.load == LoadSource::window || p.window_steps > 0)
      c.refuse({key, "placement.replan_every_steps"}, "a window of steps is what replans count, and the plan is made once",
               "set placement.replan_every_steps, or remove it");
    return;
  }
  if (p.dedup != Dedup::none) {
    c.refuse({"placement.replan_every_steps", "placement.dedup"}, "with dedup an entry stands for several experts, which a new plan may part",
             "use dedup: none, or one plan for the run");
  } else if (s.page.key == PageKey::shard) {
    c.refuse({"placement.replan_every_steps", "page.key"}, "pages move with their expert, and a page of key shard holds entries of several",
             "use page.key: expert, or one plan for the run");
  }
  if (selects(s.read.select))
    c.refuse({"placement.replan_every_steps", "read.select"}, "what selection knows of a page does not move with it",
             "use read.select: all, or one plan for the run");
  if (s.eviction.action != EvictAction::drop)
    c.refuse({"placement.replan_every_steps", "eviction.action"}, "pages in host memory do not move", "use eviction.action: drop, or one plan for the run");
  if (!std::holds_alternative<allocate::Uniform>(s.eviction.allocator))
    c.refuse({"placement.replan_every_steps", "eviction.allocator.name", "eviction.allocator"}, "a new plan gives shards new equal shares",
             "use allocator uniform, or one plan for the run");
  const bool alone = std::visit([](const auto& rule) {
    using Rule = std::decay_t<decltype(rule)>;
    return !evict::scores_groups<Rule> && !evict::sums_layers<Rule> && !requires(evict::Control& control) { rule.adapt(control); };
  }, s.eviction.rule);
  if (!alone)
    c.refuse({"placement.replan_every_steps", "eviction.policy"}, "what the policy keeps beside entries and queues does not move with them",
             "use a policy that scores entries or pages alone, or one plan for the run");
  if (classes_of(s.compression.k) > 1 || classes_of(s.compression.v) > 1)
    c.refuse({"placement.replan_every_steps", "compression.codec"}, "pages of several classes do not move", "use a codec of one class, or one plan for the run");
}

void check_eplb(Checks& c) {
  const RunSpec& s = c.spec();
  const PlacementSpec& p = s.placement;
  if (p.map != ShardMap::eplb) {
    const std::pair<const char*, bool> set[] = {{"placement.replicas", p.replicas > 0},
                                                {"placement.load_path", !p.load_path.empty()},
                                                {"placement.load", p.load != LoadSource::trace},
                                                {"placement.replan_every_steps", p.replan_every_steps > 0},
                                                {"placement.window_steps", p.window_steps > 0},
                                                {"placement.shadow", p.shadow != ShadowRule::none}};
    for (const auto& [key, is_set] : set) {
      if (is_set) return c.refuse({key, "placement.map"}, fmt::format("belongs to map eplb, not to {}", enum_name(p.map)), "remove it");
    }
    return;
  }
  check_replan(c);
  if (s.model.gate.n_experts > 0) {
    const EplbShape shape = eplb_shape(s, s.model.gate.n_experts, s.cluster.ranks);
    if (const char* why = eplb_refusal(shape)) {
      c.refuse({"placement.replicas", "placement.map", "cluster.ranks"},
               fmt::format("{} ({} replicas of {} experts on {} shards)", why, shape.n_replicas, shape.n_experts, shape.n_gpus),
               "replicas is a multiple of the shards, at least the experts");
    }
  }
  if ((p.load == LoadSource::file) != !p.load_path.empty())
    c.refuse({"placement.load_path", "placement.load"}, "load: file and load_path go together", "give both or none");
  if (p.load == LoadSource::history && s.trace.first_request == 0)
    c.refuse({"placement.load", "trace.first_request"}, "there are no requests before the first", "set trace.first_request above 0, or load: trace");
  if (s.routing.key == RoutingKey::query_router)
    c.refuse({"placement.map", "routing.key"}, "key query_router names experts that no recorded load counts", "use another map or key");
}

void check_map(Checks& c) {
  const PlacementSpec& p = c.spec().placement;
  const auto valid = [&]() -> std::vector<std::string_view> {
    if (p.layout == Layout::expert) return {"expert_affine", "hash", "pikv_xor", "eplb"};
    if (p.layout == Layout::token) return {"block_cyclic", "hash", "pikv_xor"};
    return {"none"};
  }();
  const std::string_view map = enum_name(p.map);
  if (std::find(valid.begin(), valid.end(), map) == valid.end()) {
    c.refuse({"placement.map", "placement.layout"}, fmt::format("map {} does not exist for layout {}", map, enum_name(p.layout)),
             "allowed there: " + join({valid.begin(), valid.end()}));
  } else if (p.map == ShardMap::pikv_xor && !p.fold) {
    check_xor(c);
  }
  check_eplb(c);
  if (p.map == ShardMap::pikv_xor) return;
  if (p.fold) c.refuse({"placement.fold", "placement.map"}, fmt::format("fold belongs to map pikv_xor, not to {}", map), "remove it");
  if (p.n_tok > 0 || p.n_exp > 0)
    c.refuse({p.n_tok > 0 ? "placement.n_tok" : "placement.n_exp", "placement.map"}, fmt::format("moduli belong to map pikv_xor, not to {}", map),
             "remove n_tok and n_exp");
}

}  // namespace

void check_model(Checks& c) {
  const ModelShape& m = c.spec().model;
  if (!c.given("model"))
    return c.refuse({"model.name"}, "missing required key", "name a file of configs/models (moekv list models) or give the shape in place");
  if (m.layers.empty())
    return c.refuse({"model.layers.count", "model"}, "missing required key", "give model.layers.count, or a model.name of configs/models");
  if (std::all_of(m.layers.begin(), m.layers.end(), [](const LayerShape& l) { return l.attention == AttentionKind::none; })) {
    c.refuse({"model.layers.pattern", "model"}, "no layer has attention, so there is no KV to hold", "name at least one layer full or window(n)");
  }
  check_heads(c);
  check_gate(c);
}

void check_placement(Checks& c) {
  const RunSpec& s = c.spec();
  const PlacementSpec& p = s.placement;
  check_map(c);
  if (p.dedup != Dedup::none && p.layout != Layout::expert) {
    c.refuse({"placement.dedup", "placement.layout"},
             fmt::format("only layout expert stores several copies of a token, layout {} does not", enum_name(p.layout)),
             "remove dedup, or use layout: expert");
  }
  const std::uint64_t shards = std::uint64_t{s.cluster.ranks} * s.cluster.shards_per_rank;
  if (shards > 65536)
    c.refuse({"cluster.shards_per_rank", "cluster.ranks"},
             fmt::format("{} ranks x {} shards are {} shards; the limit is 65536", s.cluster.ranks, s.cluster.shards_per_rank, shards), "use fewer");
  if (s.cluster.ranks < static_cast<std::uint32_t>(c.n_processes())) {
    c.refuse({"cluster.ranks"},
             fmt::format("{} processes cannot host {} logical ranks: every process hosts at least one", c.n_processes(), s.cluster.ranks),
             "start fewer processes or raise cluster.ranks");
  }
  if (p.layout == Layout::head && s.model.n_heads > 0 && s.cluster.ranks > s.model.n_heads) {
    c.refuse({"placement.layout", "cluster.ranks"},
             fmt::format("layout head divides {} query heads{}; {} ranks leave some without any", s.model.n_heads,
                         s.model.mla() ? " (MLA replicates the latent)" : "", s.cluster.ranks),
             fmt::format("use at most {} ranks, or layout token", s.model.n_heads));
  }
  if (s.read.copies != CopyRule::surviving && p.layout != Layout::expert) {
    c.refuse({"read.copies", "placement.layout"},
             fmt::format("copies: {} chooses among copies, which only layout expert stores", enum_name(s.read.copies)),
             "remove it, or use layout: expert");
  }
  if (!s.routing.query_router_path.empty() && s.routing.key != RoutingKey::query_router) {
    c.refuse({"routing.query_router_path", "routing.key"}, fmt::format("key {} uses no query router", enum_name(s.routing.key)),
             "set routing.key: query_router or remove the path");
  }
}

void check_pages(Checks& c) {
  const RunSpec& s = c.spec();
  if (s.page.slots != 0 && (s.page.slots < 8 || s.page.slots > 256))
    c.refuse({"page.slots"}, fmt::format("{} slots are out of range", s.page.slots), "allowed: 8..256, or 0 for the default");
  if (s.page.key == PageKey::expert && s.placement.layout != Layout::expert) {
    c.refuse({"page.key", "placement.layout"},
             fmt::format("pages of one expert need layout expert; layout {} stores one copy for all experts", enum_name(s.placement.layout)),
             "use page.key: shard or layout: expert");
  }
  if (s.page.key == PageKey::expert && s.placement.layout == Layout::expert && s.placement.dedup != Dedup::none) {
    c.refuse({"page.key", "placement.dedup"}, "with dedup one entry stands for several experts, so a page cannot be of one",
             "use page.key: shard or dedup: none");
  }
  if (s.page.head_groups > 1 && s.model.mla()) {
    c.refuse({"page.head_groups", "model"}, "MLA has one latent for all heads: there is one head group", "remove head_groups");
  } else if (s.model.n_kv_heads > 0 && s.model.n_kv_heads % s.page.head_groups != 0) {
    c.refuse({"page.head_groups", "model.n_kv_heads"}, fmt::format("{} groups do not divide {} KV heads", s.page.head_groups, s.model.n_kv_heads),
             "use a divisor of the number of KV heads");
  }
}

void check_select(Checks& c) {
  const RunSpec& s = c.spec();
  if (!selects(s.read.select)) {
    if (s.eviction.access == AccessSource::selected)
      c.refuse({"eviction.access", "read.select"}, "select all reads every page of the scope, so access selected is access dense",
               "choose a rule of read.select (moekv list selects), or another access");
    return;
  }
  if (s.backend == "count")
    c.refuse({"read.select", "backend"}, fmt::format("select {} scores pages by their keys, and backend count has no payload", rule_name(s.read.select)),
             "use backend: host, or select: all");
  bool any = false;
  for (std::uint32_t l = 0; l < s.model.n_layers(); ++l) {
    const auto& wanted = s.trace.layers;
    const bool replayed = wanted.empty() || std::find(wanted.begin(), wanted.end(), l) != wanted.end();
    any = any || (replayed && s.model.layers[l].attention != AttentionKind::none && selects_at(s.read.select, l, false));
  }
  if (!any && !s.model.layers.empty())
    c.refuse({"read.dense_layers", "read.select", "trace.layers"}, "every replayed layer reads all its pages, so nothing is ever selected",
             "lower read.dense_layers, or replay later layers");
}

void validate(const ValidateInput& input, std::vector<Problem>& problems) {
  Checks checks(input, problems);
  check_model(checks);
  check_trace(checks);
  check_placement(checks);
  check_pages(checks);
  check_select(checks);
  check_routing(checks);
  check_eviction(checks);
  check_allocator(checks);
  check_compression(checks);
  check_load(checks);
  check_backend(checks);
}

}  // namespace moekv
