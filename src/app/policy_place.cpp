// moekv policy place: where entries lie under a map.
#include <array>
#include <variant>

#include "app/policy.hpp"
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
                                            Param{"experts", &ExpertAffine::experts, "", "number of experts", 1, 896}};
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
  const auto map = given.rule<EntryMap>("map");
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
    const ShardId shard = placement.layout == Layout::token ? placement.token_shard(RequestId(e.size() > 2 ? e[2] : 0), e[0])
                                                            : placement.expert_shard(e[0], ExpertId(static_cast<std::uint16_t>(e[1])));
    shards.push_back(shard.value);
    if (shard.value >= placement.n_shards) outside.push_back(i);
  }
  Json out{{"shard", shards}};
  if (!outside.empty()) out["out_of_range"] = outside;
  return out;
}

}  // namespace

Json decide_place(Case& given) { return decide_shards(given); }

}  // namespace moekv
