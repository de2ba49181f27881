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

template <class F>
void for_each_live(const ShardedCache& cache, F&& f) {
  for (const Shard& shard : cache.shards()) {
    for (std::uint32_t p = 0; p < shard.pages().size(); ++p) {
      if (shard.pages()[p].group == no_index) continue;
      const Group& group = shard.groups()[shard.pages()[p].group];
      for (std::uint32_t slot = 0; slot < shard.pages()[p].used; ++slot) {
        if (!shard.live(p, slot)) continue;
        const std::size_t i = shard.at(p, slot);
        f(shard, p, i, Entry{group.request.value, group.layer, shard.position(i), shard.copy(i), group.head_group});
      }
    }
  }
}

}  // namespace moekv::testing
