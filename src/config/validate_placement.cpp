// Combinations of placement: maps, plans of experts and what moves when they change, copies.
#include <fmt/format.h>

#include <algorithm>
#include <variant>

#include "config/key.hpp"
#include "config/names.hpp"
#include "config/rule_keys.hpp"
#include "config/validate.hpp"
#include "engine/expert_plan.hpp"

namespace moekv {
namespace {

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
  if (const evict::Traits& rule = traits_of(s.eviction.rule); rule.scores_groups || rule.sums_layers || rule.adapts)
    c.refuse({"placement.replan_every_steps", "eviction.policy"}, "what the policy keeps beside entries and queues does not move with them",
             "use a policy that scores entries or pages alone, or one plan for the run");
  if (classes_of(s.compression.k) > 1 || classes_of(s.compression.v) > 1)
    c.refuse({"placement.replan_every_steps", "compression.codec"}, "pages of several classes do not move",
             "use a codec of one class, or one plan for the run");
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

}  // namespace moekv
