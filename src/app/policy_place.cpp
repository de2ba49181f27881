// moekv policy place: where entries lie under a map, and which experts a plan copies.
#include <algorithm>
#include <set>
#include <variant>

#include "app/policy.hpp"
#include "rules/eplb.hpp"
#include "rules/place.hpp"

namespace moekv {
namespace {

struct PikvXor {
  static constexpr std::string_view name = "pikv_xor";
  std::uint32_t n_tok = 0, n_exp = 0, shards = 1;
  bool fold = false;
  static constexpr auto params = std::tuple{Param{"shards", &PikvXor::shards, "", "number of shards", 1, 65536},
                                            Param{"n_tok", &PikvXor::n_tok, "", "modulus of the position; 0 = shards", 0, 1 << 30},
                                            Param{"n_exp", &PikvXor::n_exp, "", "modulus of the expert; 0 = shards", 0, 1 << 30},
                                            Param{"fold", &PikvXor::fold, "", "ids modulo shards"}};
  [[nodiscard]] Placement placement() const {
    Placement p{Layout::expert, ShardMap::pikv_xor};
    p.n_shards = shards;
    p.n_tok = n_tok > 0 ? n_tok : shards;
    p.n_exp = n_exp > 0 ? n_exp : shards;
    p.fold = fold;
    return p;
  }
};

struct ExpertAffine {
  static constexpr std::string_view name = "expert_affine";
  std::uint32_t shards = 1, experts = 1;
  static constexpr auto params = std::tuple{Param{"shards", &ExpertAffine::shards, "", "number of shards", 1, 65536},
                                            Param{"experts", &ExpertAffine::experts, "", "number of experts", 1, most_experts}};
  [[nodiscard]] Placement placement() const {
    Placement p{Layout::expert, ShardMap::expert_affine};
    p.n_shards = shards;
    p.n_experts = experts;
    return p;
  }
};

struct HashMap {
  static constexpr std::string_view name = "hash";
  std::uint32_t shards = 1;
  std::uint64_t seed = 1;
  static constexpr auto params =
      std::tuple{Param{"shards", &HashMap::shards, "", "number of shards", 1, 65536}, Param{"seed", &HashMap::seed, "", "seed of the hash"}};
  [[nodiscard]] Placement placement() const {
    Placement p{Layout::expert, ShardMap::hash};
    p.n_shards = shards;
    p.seed = seed;
    return p;
  }
};

struct BlockCyclic {
  static constexpr std::string_view name = "block_cyclic";
  std::uint32_t shards = 1, block_tokens = 64;
  std::uint64_t seed = 1;
  static constexpr auto params = std::tuple{Param{"shards", &BlockCyclic::shards, "", "number of shards", 1, 65536},
                                            Param{"block_tokens", &BlockCyclic::block_tokens, "tokens", "length of a block", 1, 1 << 30},
                                            Param{"seed", &BlockCyclic::seed, "", "seed of a request's first shard"}};
  [[nodiscard]] Placement placement() const {
    Placement p{Layout::token, ShardMap::block_cyclic};
    p.n_shards = shards;
    p.block_tokens = block_tokens;
    p.seed = seed;
    return p;
  }
};

using EntryMap = std::variant<PikvXor, ExpertAffine, HashMap, BlockCyclic>;

/// Shards of the entries [position, expert] or [position, expert, request]. Shards that do not exist are named, as the formula names them.
Json decide_shards(Case& given) {
  const auto map = given.rule<EntryMap>("map", "params", {"eplb", "shadow"});
  given.require("entries");
  const auto entries = given.rows<std::uint32_t>("entries");
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (entries[i].size() >= 2 && entries[i].size() <= 3 && entries[i][1] < ExpertId::invalid) continue;
    given.complain(fmt::format("entries/{}", i), "is no entry", "write [position, expert] or [position, expert, request]");
  }
  given.finish();
  const Placement placement = std::visit([](const auto& m) { return m.placement(); }, map);
  Json shards = Json::array(), outside = Json::array();
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const std::vector<std::uint32_t>& e = entries[i];
    const ShardId shard = placement.layout == Layout::token
                              ? placement.token_shard(RequestId(e.size() > 2 ? e[2] : 0), e[0])
                              : placement.expert_shard(0, RequestId(e.size() > 2 ? e[2] : 0), e[0], ExpertId(static_cast<std::uint16_t>(e[1])));
    shards.push_back(shard.value);
    if (shard.value >= placement.n_shards) outside.push_back(i);
  }
  Json out{{"shard", shards}};
  if (!outside.empty()) out["out_of_range"] = outside;
  return out;
}

/// Parameters of the maps that are planned from loads.
struct Eplb {
  static constexpr std::string_view name = "eplb";
  std::uint32_t replicas = 1, groups = 1, nodes = 1, gpus = 1;
  static constexpr auto params =
      std::tuple{Param{"replicas", &Eplb::replicas, "", "physical experts", 1, max_replicas},
                 Param{"groups", &Eplb::groups, "", "groups that a node keeps together", 1, 1024},
                 Param{"nodes", &Eplb::nodes, "", "nodes", 1, max_replicas}, Param{"gpus", &Eplb::gpus, "", "GPUs of all nodes", 1, max_replicas}};
};
struct Shadow {
  static constexpr std::string_view name = "shadow";
  double bw = 6.25e9, flops = 11.5e12, alpha = 2, d = 2048;
  static constexpr auto params = std::tuple{Param{"bw", &Shadow::bw, "byte/s", "bandwidth between workers", 1, 1e15},
                                            Param{"flops", &Shadow::flops, "1/s", "speed of a worker", 1, 1e18},
                                            Param{"alpha", &Shadow::alpha, "1", "hidden width of an expert over d", 1e-3, 1e3},
                                            Param{"d", &Shadow::d, "", "width of the residual stream", 1, 1e6}};
};

std::vector<double> read_load(Case& given) {
  given.require("load");
  std::vector<double> load = given.list<double>("load", {0, 1e300});
  if (given.has("load") && !given.failed() && (load.empty() || load.size() > most_experts))
    given.complain("load", fmt::format("1 to {} experts", most_experts));
  if (!given.failed() && std::all_of(load.begin(), load.end(), [](double x) { return x == 0; }))
    given.complain("load", "every load is 0, so there is nothing to plan by", "give the counts of the experts' choices");
  return load;
}

/// Distinct nodes of each token's experts, each served by its lowest slot: the number that a gate limited by nodes keeps down.
Json count_nodes(const std::vector<std::vector<std::uint16_t>>& tokens, const Json& slots, std::uint32_t slots_per_node) {
  Json out = Json::array();
  for (const std::vector<std::uint16_t>& token : tokens) {
    std::set<std::uint32_t> nodes;
    for (const std::uint16_t e : token) nodes.insert(slots[e].front().get<std::uint32_t>() / slots_per_node);
    out.push_back(nodes.size());
  }
  return out;
}

Json decide_eplb(Case& given) {
  (void)given.find("map");
  Eplb eplb;
  Case params = given.part("params");
  params.set_parameters(eplb);
  const std::vector<double> load = read_load(given);
  const EplbShape shape{static_cast<std::uint32_t>(load.size()), eplb.replicas, eplb.groups, eplb.nodes, eplb.gpus};
  if (const char* why = given.failed() ? nullptr : eplb_refusal(shape); why != nullptr) given.complain("params", why);
  const auto tokens = given.rows<std::uint16_t>("tokens", {0, static_cast<double>(std::max<std::size_t>(load.size(), 1) - 1)});
  given.finish();
  std::vector<std::uint16_t> experts(shape.n_replicas), copies(shape.n_experts);
  plan_eplb(shape, load.data(), experts.data());
  for (const std::uint16_t e : experts) copies[e] += 1;
  std::vector<double> gpu_load(shape.n_gpus);
  for (std::size_t i = 0; i < experts.size(); ++i) gpu_load[i / (shape.n_replicas / shape.n_gpus)] += load[experts[i]] / copies[experts[i]];
  Json slots = Json::array();
  for (std::uint32_t e = 0; e < shape.n_experts; ++e) {
    Json own = Json::array();
    for (std::size_t i = 0; i < experts.size(); ++i) {
      if (experts[i] == e) own.push_back(i);
    }
    slots.push_back(own);
  }
  Json out{{"physical_to_logical", experts}, {"gpu_load", gpu_load}, {"logical_count", copies}, {"logical_to_physical", slots}};
  if (given.has("tokens")) out["nodes_of_token"] = count_nodes(tokens, slots, shape.n_replicas / shape.n_nodes);
  return out;
}

Json decide_shadow(Case& given) {
  (void)given.find("map");
  Shadow shadow;
  Case params = given.part("params");
  params.set_parameters(shadow);
  const std::vector<double> load = read_load(given);
  given.finish();
  const ShadowCost cost{shadow.bw, shadow.flops, shadow.alpha, shadow.d};
  std::vector<std::uint16_t> order(load.size());
  std::vector<double> seconds(load.size() + 1);
  const std::uint32_t n = plan_shadows(cost, load.data(), static_cast<std::uint32_t>(load.size()), order.data(), seconds.data());
  order.resize(n);
  seconds.resize(n + 1);
  return {{"shadow", order}, {"seconds", seconds}};
}

}  // namespace

Json decide_place(Case& given) {
  const Json* map = given.find("map");
  if (map != nullptr && *map == Eplb::name) return decide_eplb(given);
  if (map != nullptr && *map == Shadow::name) return decide_shadow(given);
  return decide_shards(given);
}

}  // namespace moekv
