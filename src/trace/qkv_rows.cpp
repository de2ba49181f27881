// The generator's rows as a backend makes them: the same maps, seeds and sinks, laid out for one layer.
#include <algorithm>

#include "rules/generate.hpp"
#include "trace/qkv_generator.hpp"

namespace moekv {
namespace {

generate::PlaneView view_of(const PlaneMap& map) {
  return {map.weights.data(), map.deviation.data(), map.gain.data(), map.offset.data(), map.latent_seed, map.rank, map.dim, map.n_columns};
}

}  // namespace

void QkvGenerator::list_head(std::uint32_t layer, std::uint32_t kv_head, RowList& list) {
  const HeadMaps& maps = head_maps(layer, kv_head);
  const bool sinks = has_token_sinks(layer);
  for (std::uint32_t p = 0; p < parts_.size(); ++p) {
    const Part& part = parts_[p];
    generate::RowPlan row;
    row.plane = static_cast<std::uint32_t>(list.planes.size());
    list.planes.push_back(view_of(maps.parts[p]));
    row.rotates = part.rotates;
    row.first = kv_head * shape_.d_k + part.first_channel;
    const bool holds_sink = sinks && sink_channel_ >= part.first_channel && sink_channel_ < part.first_channel + part.shape.dim;
    if (holds_sink) row.sink_channel = sink_channel_ - part.first_channel;
    row.sink_value = sink_key();
    if (sinks && part.shape.plane == KvPlane::latent) row.sink_scale = generate::sink_value_scale;
    list.rows.push_back(row);
    row.kind = generate::RowKind::query;
    row.sink_value = generate::sink_query;
    row.sink_scale = 1.0F;
    row.reach = target_reach(layer);
    row.scale = query_scale_;
    for (std::uint32_t head = kv_head * shape_.group_size(); head < (kv_head + 1) * shape_.group_size(); ++head) {
      row.first = head * shape_.d_k + part.first_channel;
      row.target_seed = head_seed(layer, head);
      row.noise_seed = noise_seed(layer, head, p);
      list.rows.push_back(row);
    }
  }
  if (shape_.mla()) return;
  generate::RowPlan value;
  value.kind = generate::RowKind::value;
  value.plane = static_cast<std::uint32_t>(list.planes.size());
  list.planes.push_back(view_of(maps.value));
  value.first = kv_head * shape_.d_v;
  if (sinks) value.sink_scale = generate::sink_value_scale;
  list.rows.push_back(value);
}

bool QkvGenerator::list_rows(LayerId layer, TokenExperts experts, RowList& list) {
  if (spec_.sequence_mix > 0 || (spec_.expert_affinity > 0 && experts.ids != nullptr)) return false;
  list.planes.clear();
  list.rows.clear();
  make_maps(layer.value);
  for (std::uint32_t h = 0; h < shape_.n_kv_heads; ++h) list_head(layer.value, h, list);
  list.turns = angles_.turns();
  return true;
}

}  // namespace moekv
