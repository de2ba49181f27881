// The q, k, v generator on a device: maps of the heads are brought there once, rows come back.
#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include "device_backend.hpp"
#include "generate_block.hpp"

namespace moekv::kernels {
namespace {

/// Rows of `plan` that a range asks for.
std::uint32_t n_rows(const generate::RowPlan& plan, const generate::RowRange& range) {
  return range.end - (plan.kind == generate::RowKind::query ? range.query_begin : range.begin);
}

std::vector<GenerateItem> items_of(const GenerateBatch& batch) {
  std::vector<GenerateItem> items;
  for (std::uint32_t r = 0; r < batch.ranges.size(); ++r) {
    for (std::uint32_t p = 0; p < batch.rows.size(); ++p) {
      const std::uint32_t n = n_rows(batch.rows[p], batch.ranges[r]);
      for (std::uint32_t first = 0; first < n; first += generate_rows) items.push_back({p, r, first, std::min(generate_rows, n - first)});
    }
  }
  return items;
}

/// Values of all ranges, by RowKind.
std::array<std::uint64_t, generate::n_row_kinds> floats_of(const GenerateBatch& batch) {
  std::uint64_t tokens = 0, queries = 0;
  for (const generate::RowRange& range : batch.ranges) {
    tokens += range.end - range.begin;
    queries += range.end - range.query_begin;
  }
  return {batch.width[0] * tokens, batch.width[1] * tokens, batch.width[2] * queries};
}

}  // namespace

DeviceBackend::PlaneKey DeviceBackend::key_of(const generate::PlaneView& plane) {
  PlaneKey key{static_cast<std::uint32_t>(plane.latent_seed), static_cast<std::uint32_t>(plane.latent_seed >> 32U), plane.rank, plane.dim,
               plane.n_columns};
  key.reserve(key.size() + plane.rank + 2 * std::size_t{plane.dim});
  const auto add = [&](const float* x, std::uint32_t n) { std::transform(x, x + n, std::back_inserter(key), bits_of); };
  add(plane.deviation, plane.rank);
  add(plane.gain, plane.dim);
  add(plane.offset, plane.dim);
  return key;
}

generate::PlaneView DeviceBackend::plane_on_device(const generate::PlaneView& plane) {
  PlaneKey key = key_of(plane);
  auto known = planes_.find(key);
  const std::uint64_t n = std::uint64_t{plane.rank} * plane.n_columns, floats = n + plane.rank + 2 * std::uint64_t{plane.dim};
  if (known == planes_.end()) {
    staging_.begin(Staging::room<float>(floats), 0);
    const auto part = staging_.part<float>(floats);
    float* at = std::copy_n(plane.weights, n, part.host);
    at = std::copy_n(plane.deviation, plane.rank, at);
    at = std::copy_n(plane.gain, plane.dim, at);
    std::copy_n(plane.offset, plane.dim, at);
    std::byte* memory = device_->allocate(floats * sizeof(float));
    known = planes_.emplace(std::move(key), memory).first;
    plane_bytes_ += static_cast<std::int64_t>(floats * sizeof(float));
    staging_.send();
    device_->copy(memory, reinterpret_cast<const std::byte*>(part.device), floats * sizeof(float));
    staging_.end();
  }
  generate::PlaneView here = plane;
  here.weights = reinterpret_cast<const float*>(known->second);
  here.deviation = here.weights + n;
  here.gain = here.deviation + plane.rank;
  here.offset = here.gain + plane.dim;
  return here;
}

void DeviceBackend::forget_planes() {
  for (const auto& [key, memory] : planes_) device_->release(memory);
  planes_.clear();
  plane_bytes_ = 0;
}

bool DeviceBackend::generate(const GenerateBatch& batch) {
  const std::vector<GenerateItem> items = items_of(batch);
  const auto floats = floats_of(batch);
  std::uint64_t shared_bytes = 0, room = 0;
  for (const generate::PlaneView& plane : batch.planes) shared_bytes = std::max(shared_bytes, generate_shared_bytes(plane.rank, plane.dim));
  for (const std::uint64_t n : floats) room += Staging::room<float>(n);
  if (room < worth_a_trip * sizeof(float) || shared_bytes > device_->shared_limit()) return false;
  std::vector<generate::PlaneView> planes;
  for (const generate::PlaneView& plane : batch.planes) planes.push_back(plane_on_device(plane));
  std::array<generate::BridgeNode, generate::block_tokens> nodes{};
  generate::set_bridge_nodes(nodes.data());
  results_.need(room);
  staging_.begin(Staging::room<GenerateItem>(items.size()) + Staging::room<generate::PlaneView>(planes.size()) +
                     Staging::room<generate::RowPlan>(batch.rows.size()) + Staging::room<generate::RowRange>(batch.ranges.size()) +
                     Staging::room<generate::BridgeNode>(nodes.size()) + Staging::room<double>(batch.turns.size()),
                 room);
  GenerateLaunch work{};
  work.items = staging_.put(std::span<const GenerateItem>(items));
  work.n_items = static_cast<std::uint32_t>(items.size());
  work.planes = staging_.put(std::span<const generate::PlaneView>(planes));
  work.plans = staging_.put(batch.rows);
  work.ranges = staging_.put(batch.ranges);
  work.nodes = staging_.put(std::span<const generate::BridgeNode>(nodes));
  work.turns = staging_.put(batch.turns);
  std::byte* at = results_.device();
  for (std::size_t kind = 0; kind < floats.size(); ++kind) {
    work.width[kind] = batch.width[kind];
    work.out[kind] = reinterpret_cast<float*>(at);
    at += Staging::room<float>(floats[kind]);
  }
  work.shared_bytes = shared_bytes;
  staging_.launch(work);
  for (std::size_t kind = 0; kind < floats.size(); ++kind)
    staging_.deliver(batch.out[kind], staging_.bring(static_cast<const float*>(work.out[kind]), floats[kind]), floats[kind]);
  staging_.end();
  return true;
}

}  // namespace moekv::kernels
