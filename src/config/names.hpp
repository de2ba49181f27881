// Names of the enumerations of RunSpec and ModelShape as they stand in YAML, indexed by value (the convention of the rule parameters).
#pragma once

#include <array>
#include <string_view>

#include "engine/run_spec.hpp"

namespace moekv {

template <std::size_t n>
using Names = std::array<std::string_view, n>;

constexpr auto enum_names(ScoreFunction) { return Names<3>{"softmax", "sigmoid", "sqrtsoftplus"}; }
constexpr auto enum_names(ScoreOrder) { return Names<2>{"pre", "post"}; }
constexpr auto enum_names(Layout) { return Names<5>{"local", "expert", "token", "head", "replicated"}; }
constexpr auto enum_names(ShardMap) { return Names<6>{"none", "pikv_xor", "expert_affine", "hash", "block_cyclic", "eplb"}; }
constexpr auto enum_names(LoadSource) { return Names<4>{"trace", "history", "file", "window"}; }
constexpr auto enum_names(ShadowRule) { return Names<2>{"none", "fastermoe"}; }
constexpr auto enum_names(Dedup) { return Names<3>{"none", "shard", "rank"}; }
constexpr auto enum_names(HomeRule) { return Names<2>{"modulo", "least_loaded"}; }
constexpr auto enum_names(DenseLayers) { return Names<1>{"home"}; }
constexpr auto enum_names(RoutingKey) { return Names<4>{"previous_layer", "previous_token", "query_router", "same_layer"}; }
constexpr auto enum_names(ReadScope) { return Names<2>{"all", "routed"}; }
constexpr auto enum_names(CopyRule) { return Names<3>{"surviving", "hash", "paper"}; }
constexpr auto enum_names(PageKey) { return Names<3>{"auto", "expert", "shard"}; }
constexpr auto enum_names(EvictScope) { return Names<2>{"request", "shard"}; }
constexpr auto enum_names(EvictUnit) { return Names<3>{"auto", "token", "page"}; }
constexpr auto enum_names(AccessSource) { return Names<4>{"dense", "routed", "mass", "selected"}; }
constexpr auto enum_names(Trigger) { return Names<4>{"on_full", "watermark", "every", "prefill_end"}; }
constexpr auto enum_names(EvictAction) { return Names<2>{"drop", "demote"}; }
constexpr auto enum_names(evict::PlanAxis) { return Names<4>{"sequence", "token_prefix", "token_suffix", "page_hash"}; }
constexpr auto enum_names(Reducer) { return Names<3>{"mean", "sum", "max"}; }
constexpr auto enum_names(PageReducer) { return Names<4>{"mean", "sum", "max", "min"}; }
constexpr auto enum_names(Ties) { return Names<2>{"newest", "oldest"}; }
constexpr auto enum_names(PrefillQueries) { return Names<4>{"auto", "none", "last", "all"}; }
constexpr auto enum_names(PrefillEvict) { return Names<2>{"end", "chunk"}; }
constexpr auto enum_names(LoadKind) { return Names<2>{"concurrency", "arrivals"}; }
constexpr auto enum_names(ElementFormat) { return Names<3>{"fp32", "bf16", "fp16"}; }  // of a payload: the raw ones
constexpr auto enum_names(QkvKind) { return Names<3>{"auto", "recorded", "generated"}; }
constexpr auto enum_names(ScoreReference) { return Names<2>{"dense", "none"}; }
constexpr auto enum_names(CombineType) { return Names<2>{"fp32", "bf16"}; }
constexpr auto enum_names(StepOrder) { return Names<2>{"standard", "pikv"}; }

/// Name of an enumerator.
template <class E>
[[nodiscard]] constexpr std::string_view enum_name(E value) {
  return enum_names(value)[static_cast<std::size_t>(value)];
}

}  // namespace moekv
