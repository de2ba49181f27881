// Rows of one window: filled by the phases, emptied by flush.
#include "engine/counters.hpp"

#include <algorithm>
#include <bit>
#include <compare>
#include <cstring>
#include <map>
#include <numeric>
#include <utility>

namespace moekv {
namespace {

/// Order by the key fields, in declaration order.
template <class Record>
std::strong_ordering compare_keys(const Record& a, const Record& b) {
  std::strong_ordering order = std::strong_ordering::equal;
  for_each_field(Record::metrics, [&](const auto& m) {
    if (m.combine == Combine::key && order == 0) order = a.*m.member <=> b.*m.member;
  });
  return order;
}

/// Rows of all processes with rows of equal keys combined, by key; complete on process 0. Empties `mine`.
template <class Record>
std::vector<Record> merge_rows(Transport& transport, std::vector<Record>& mine) {
  std::vector<Record> rows = std::exchange(mine, {});
  if (transport.n_processes() > 1) rows = gather_rows(transport, rows);
  const auto before = [](const Record& a, const Record& b) { return compare_keys(a, b) < 0; };
  const auto not_before = [&](const Record& a, const Record& b) { return !before(a, b); };
  if (std::adjacent_find(rows.begin(), rows.end(), not_before) == rows.end()) return rows;  // as a single process leaves them
  std::sort(rows.begin(), rows.end(), before);
  std::size_t n = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (n > 0 && compare_keys(rows[n - 1], rows[i]) == 0) {
      combine_rows(rows[n - 1], rows[i]);
    } else {
      rows[n++] = rows[i];
    }
  }
  rows.resize(n);
  return rows;
}

/// What each rank waited for the last one, where every rank has a process of its own.
void set_waits(std::vector<LoadRecord>& loads) {
  std::map<std::int64_t, std::int64_t> least;
  const auto timed = [](const LoadRecord& l) { return l.entity == static_cast<std::int64_t>(Entity::rank) && l.exchange_ns > 0; };
  for (const LoadRecord& l : loads) {
    if (!timed(l)) continue;
    const auto it = least.try_emplace(l.first_step, l.exchange_ns).first;
    it->second = std::min(it->second, l.exchange_ns);
  }
  for (LoadRecord& l : loads) {
    if (timed(l)) l.wait_ns = l.exchange_ns - least[l.first_step];
  }
}

}  // namespace

Counters::Counters(const Geometry& geometry, Rank first_rank, Rank end_rank) : geometry_(&geometry), first_(first_rank), end_(end_rank) {
  const std::uint32_t own = end_.value - first_.value;
  send_ns_.resize(own);
  receive_ns_.resize(own);
  memory_bytes_.resize(own);
  host_ns_.resize(own);
  layers.resize(geometry.layers().size());
  expert_load.resize(geometry.n_experts());
  rank_load.resize(own);
  codec.resize(geometry.compressed() ? geometry.n_classes() : 0);
  shard_load.resize(geometry.placement().first_shard(end_.value) - geometry.placement().first_shard(first_.value));
  allocation_.resize(layers.size() * geometry.n_model_head_groups());
  entities_ = {expert_load.size(), shard_load.size(), rank_load.size()};
  for (std::size_t e = 0; e < entities_.size(); ++e) layer_load_[e].resize(layers.size() * entities_[e]);
  if (geometry.n_ranks() <= geometry.spec().metrics.traffic_max_ranks) matrix_.resize(std::size_t{own} * geometry.n_ranks());
  reset(0);
}

void Counters::listen_to_experts() {
  expert_missed.resize(layers.size() * geometry_->n_experts());
  expert_lookups.resize(layers.size());
}

void Counters::looked_up_under(std::uint32_t layer, ExpertId expert, std::int64_t lookups, std::int64_t missed) {
  if (expert_missed.empty()) return;
  expert_lookups[layer] += lookups;
  if (expert.valid()) expert_missed[std::size_t{layer} * geometry_->n_experts() + expert.value] += missed;
}

void Counters::missed_under(std::uint32_t layer, const std::uint64_t* experts, std::span<const std::uint64_t> asked) {
  for (std::size_t w = 0; !expert_missed.empty() && w < asked.size(); ++w) {
    for (std::uint64_t bits = experts[w] & asked[w]; bits != 0; bits &= bits - 1) {
      expert_missed[std::size_t{layer} * geometry_->n_experts() + w * 64 + static_cast<std::size_t>(std::countr_zero(bits))] += 1;
    }
  }
}

void Counters::reset(std::uint64_t first_step) {
  const auto key = static_cast<std::int64_t>(first_step);
  const Placement& placement = geometry_->placement();
  step = StepRecord{};
  step.first_step = key;
  reuse = {};
  for (std::size_t l = 0; l < layers.size(); ++l) {
    layers[l] = LayerRecord{};
    layers[l].first_step = key;
    layers[l].layer = geometry_->layers()[l].layer.value;
  }
  const auto fill = [&](std::vector<LoadRecord>& rows, Entity entity, std::uint32_t first) {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      rows[i] = LoadRecord{};
      rows[i].first_step = key;
      rows[i].entity = static_cast<std::int64_t>(entity);
      rows[i].index = static_cast<std::int64_t>(first + i);
    }
  };
  fill(expert_load, Entity::expert, 0);
  fill(shard_load, Entity::shard, placement.first_shard(first_.value));
  fill(rank_load, Entity::rank, first_.value);
  for (std::size_t i = 0; i < allocation_.size(); ++i) {
    allocation_[i] = AllocationRecord{};
    allocation_[i].first_step = key;
    allocation_[i].layer = layers[i / geometry_->n_model_head_groups()].layer;
    allocation_[i].head_group = static_cast<std::int64_t>(i % geometry_->n_model_head_groups());
  }
  for (std::size_t c = 0; c < codec.size(); ++c) {
    codec[c] = CodecRecord{};
    codec[c].first_step = key;
    codec[c].page_class = static_cast<std::int64_t>(c);
  }
  for (std::size_t i = 0; i < matrix_.size(); ++i) {
    matrix_[i] = TrafficRecord{};
    matrix_[i].first_step = key;
    matrix_[i].source = static_cast<std::int64_t>(first_.value + i / placement.n_ranks);
    matrix_[i].destination = static_cast<std::int64_t>(i % placement.n_ranks);
  }
}

void Counters::note_list(std::uint32_t layer, std::uint32_t head_group, std::uint64_t capacity, std::uint64_t live) {
  AllocationRecord& row = allocation_[std::size_t{layer} * geometry_->n_model_head_groups() + head_group];
  const auto budget = static_cast<std::int64_t>(capacity), resident = static_cast<std::int64_t>(live);
  AllocationRecord list = row;
  list.lists = 1;
  list.budget_min = list.budget_total = list.budget_max = budget;
  list.resident_min = list.resident_total = list.resident_max = resident;
  if (row.lists == 0) {
    row = list;
  } else {
    combine_rows(row, list);
  }
}

void Counters::sent(Rank source, Rank destination, const ByteCounts& bytes, std::uint32_t layer) {
  const std::int64_t total = std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0});
  step.bytes_logical += total;
  if (!matrix_.empty()) {
    TrafficRecord& row = matrix_[std::size_t{source.value - first_.value} * geometry_->n_ranks() + destination.value];
    std::int64_t* fields[n_byte_classes] = {&row.kv, &row.q, &row.partial, &row.lse, &row.notices, &row.headers, &row.pages};
    for (std::size_t c = 0; c < n_byte_classes; ++c) *fields[c] += bytes[c];
    row.messages += 1;
  }
  LoadRecord& load = rank_load[source.value - first_.value];
  if (source == destination) {
    step.bytes_self += total;
    load.bytes_self += total;
    return;
  }
  load.bytes_sent += total;
  (geometry_->spec().cluster.network.same_node(source, destination) ? step.wire_intra : step.wire_inter) += total;
  std::int64_t* wire[n_byte_classes] = {&step.wire_kv,      &step.wire_q,       &step.wire_partial, &step.wire_lse,
                                        &step.wire_notices, &step.wire_headers, &step.wire_pages};
  for (std::size_t c = 0; c < n_byte_classes; ++c) *wire[c] += bytes[c];
  step.wire_messages += 1;
  if (layer < layers.size()) layers[layer].wire_bytes += total;
  send_ns_[source.value - first_.value] += geometry_->spec().cluster.network.message_ns(source, destination, total);
  busy_.push_back(source.value - first_.value);
}

void Counters::received(Rank source, Rank destination, const ByteCounts& bytes) {
  const std::int64_t total = std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0});
  step.bytes_received += total;
  if (source == destination) return;
  rank_load[destination.value - first_.value].bytes_recv += total;
  receive_ns_[destination.value - first_.value] += geometry_->spec().cluster.network.message_ns(source, destination, total);
  busy_.push_back(destination.value - first_.value);
}

std::int64_t Counters::end_exchange() {
  std::int64_t worst = 0;
  for (const std::uint32_t r : busy_) worst = std::max({worst, send_ns_[r], receive_ns_[r]});
  for (const std::uint32_t r : busy_) send_ns_[r] = receive_ns_[r] = 0;
  busy_.clear();
  exchange_ns_.push_back(worst);
  return worst;
}

std::vector<std::int64_t> Counters::step_model() const {
  std::vector<std::int64_t> values = exchange_ns_;
  const std::int64_t bytes = memory_bytes_.empty() ? 0 : *std::max_element(memory_bytes_.begin(), memory_bytes_.end());
  values.push_back(geometry_->spec().cluster.network.memory_ns(bytes));
  values.push_back(host_ns_.empty() ? 0 : *std::max_element(host_ns_.begin(), host_ns_.end()));
  return values;
}

void Counters::take_step_model(std::vector<std::int64_t>& values) {
  values.swap(exchange_ns_);
  exchange_ns_.clear();
  std::int64_t bytes = 0, host_ns = 0;
  for (std::size_t r = 0; r < memory_bytes_.size(); ++r) {
    bytes = std::max(bytes, std::exchange(memory_bytes_[r], 0));
    host_ns = std::max(host_ns, std::exchange(host_ns_[r], 0));
  }
  values.push_back(geometry_->spec().cluster.network.memory_ns(bytes));
  values.push_back(host_ns);
}

std::vector<std::int64_t> Counters::take_step_model() {
  std::vector<std::int64_t> values;
  take_step_model(values);
  return values;
}

void Counters::flush(std::uint64_t next_step) {
  if (step.n_steps > 0) {
    if (rank_load.size() == 1) {
      rank_load[0].busy_ns = step.t_admit + step.t_attend + step.t_touch;
      rank_load[0].exchange_ns = step.comm_total;
    }
    step.comm_exposed = step.comm_total;
    flush_reuse();
    if (step.first_step < std::int64_t{geometry_->spec().metrics.warmup_steps}) {
      for (auto& loads : layer_load_) std::fill(loads.begin(), loads.end(), 0);
    }
    step_rows_.push_back(step);
    layer_rows_.insert(layer_rows_.end(), layers.begin(), layers.end());
    codec_rows_.insert(codec_rows_.end(), codec.begin(), codec.end());
    for (const auto* rows : {&expert_load, &shard_load, &rank_load}) load_rows_.insert(load_rows_.end(), rows->begin(), rows->end());
    const std::size_t nodes = load_rows_.size();
    for (const LoadRecord& rank : rank_load) {  // ascending, and so are their nodes
      LoadRecord node = rank;
      node.entity = static_cast<std::int64_t>(Entity::node);
      node.index = rank.index / geometry_->spec().cluster.network.ranks_per_node;
      if (load_rows_.size() > nodes && load_rows_.back().index == node.index) {
        combine_rows(load_rows_.back(), node);
      } else {
        load_rows_.push_back(node);
      }
    }
    for (const TrafficRecord& row : matrix_) {
      if (row.messages > 0) traffic_rows_.push_back(row);
    }
    for (const AllocationRecord& row : allocation_) {
      if (row.lists > 0) allocation_rows_.push_back(row);
    }
  }
  reset(next_step);
}

void Counters::collect(Transport& transport, RunOutcome& out) {
  out.steps = merge_rows(transport, step_rows_);
  out.layers = merge_rows(transport, layer_rows_);
  out.loads = merge_rows(transport, load_rows_);
  set_waits(out.loads);
  std::vector<LayerLoadRecord> layer_loads = layer_load_rows();
  out.layer_loads = merge_rows(transport, layer_loads);
  out.histograms = merge_rows(transport, histogram_rows_);
  out.codecs = merge_rows(transport, codec_rows_);
  out.traffic = merge_rows(transport, traffic_rows_);
  out.allocations = merge_rows(transport, allocation_rows_);
  for (const auto& part : transport.gather(std::as_bytes(std::span(digest.windows())))) {
    std::vector<Digest128> windows(part.size() / sizeof(Digest128));
    if (!windows.empty()) std::memcpy(windows.data(), part.data(), part.size());
    if (out.window_digests.size() < windows.size()) out.window_digests.resize(windows.size());
    for (std::size_t w = 0; w < windows.size(); ++w) out.window_digests[w] = add(out.window_digests[w], windows[w]);
  }
  for (const Digest128& window : out.window_digests) out.digest = add(out.digest, window);
}

}  // namespace moekv
