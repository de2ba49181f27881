// Rows that counters make of arrays: histograms of a window, loads of layers over the run.
#include <map>

#include "engine/counters.hpp"

namespace moekv {

void Counters::flush_reuse() {
  const LogBins* of[n_histograms] = {&reuse.eviction_age, &reuse.reuse_distance, &reuse.reuse_time};
  for (std::size_t h = 0; h < n_histograms; ++h) {
    for (std::size_t bin = 0; bin < LogBins::n_bins; ++bin) {
      if (of[h]->count[bin] == 0) continue;
      histogram_rows_.push_back({step.first_step, static_cast<std::int64_t>(h), static_cast<std::int64_t>(LogBins::low(bin)),
                                 static_cast<std::int64_t>(LogBins::high(bin)), of[h]->count[bin], of[h]->total[bin]});
    }
  }
}

std::vector<LayerLoadRecord> Counters::layer_load_rows() const {
  std::vector<LayerLoadRecord> rows;
  const auto add = [&](Entity entity, std::size_t layer, std::size_t index, std::int64_t load) {
    if (load > 0) rows.push_back({geometry_->layers()[layer].layer.value, static_cast<std::int64_t>(entity), static_cast<std::int64_t>(index), load});
  };
  const std::uint32_t first[] = {0, geometry_->placement().first_shard(first_.value), first_.value};
  for (std::size_t l = 0; l < layers.size(); ++l) {
    std::map<std::size_t, std::int64_t> nodes;
    for (std::size_t e = 0; e < layer_load_.size(); ++e) {
      for (std::size_t i = 0; i < entities_[e]; ++i) {
        const std::int64_t load = layer_load_[e][l * entities_[e] + i];
        add(static_cast<Entity>(e), l, first[e] + i, load);
        if (static_cast<Entity>(e) == Entity::rank) nodes[(first[e] + i) / geometry_->spec().cluster.network.ranks_per_node] += load;
      }
    }
    for (const auto& [node, load] : nodes) add(Entity::node, l, node, load);
  }
  return rows;
}

}  // namespace moekv
