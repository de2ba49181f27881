// Runs whose plan of experts changes, and their entries.
#pragma once

#include <array>

#include "support/replay_fixture.hpp"

namespace moekv::testing {

using Entry = std::array<std::uint32_t, 5>;  // request, layer, position, copy, head group

inline RunSpec replan_spec(std::uint32_t every, ModelShape model = gqa_model()) {
  RunSpec spec = small_spec(std::move(model));
  use_expert_layout(spec, ShardMap::eplb);
  spec.placement.load = LoadSource::window;
  spec.placement.replan_every_steps = every;
  spec.placement.replicas = 24;
  spec.cluster.network.ranks_per_node = 2;
  return spec;
}

inline RunOutcome run_replanned(const RunSpec& spec, const AfterStep& after_step = {}, const char* backend = "host") {
  RandomTrace trace(spec.model, requests_of({{40, 9}, {0, 25}, {57, 1}, {13, 20}, {1, 1}}), 11);
  const auto transport = make_local_transport();
  const auto device = make_backend(backend, 0);
  return run_replay(spec, *transport, *device, trace, after_step);
}

/// f(shard, page, index in the shard's arrays, entry) for every entry that the cache holds.
template <class F>
void for_each_entry(ShardedCache& cache, F&& f) {
  for_each_live(cache, [&](Shard& shard, std::uint32_t page, std::uint32_t slot) {
    const Group& group = shard.groups()[shard.pages()[page].group];
    const std::size_t i = shard.at(page, slot);
    f(shard, page, i, Entry{group.request.value, group.layer, shard.position(i), shard.copy(i), group.head_group});
  });
}

}  // namespace moekv::testing
