// Counts (token, rank) pairs as Home::plan does and multiplies by the sizes of the wire structs.
#include "engine/plan_traffic.hpp"

#include <algorithm>
#include <cmath>

#include "engine/wire.hpp"

namespace moekv {
namespace {

constexpr std::uint32_t not_written = 0xFFFFFFFFU;

double n_queries(const BatchItem& item) { return item.end - std::min(item.end, std::max(item.query_begin, item.begin)); }

}  // namespace

void add_traffic(PlannedTraffic& a, const PlannedTraffic& b, double factor) {
  for (double PlannedTraffic::*const field : {&PlannedTraffic::kv, &PlannedTraffic::q, &PlannedTraffic::partial, &PlannedTraffic::lse,
                                              &PlannedTraffic::headers, &PlannedTraffic::logical}) {
    a.*field += factor * b.*field;
  }
}

PlanTraffic::PlanTraffic(const Geometry& geometry, const ExpertShares& shares) : geometry_(&geometry), shares_(&shares) {
  for (const ReplayLayer& layer : geometry.layers()) {
    if (geometry.layout(layer) != geometry.placement().layout) {
      home_layers_ += 1;
      continue;
    }
    const std::uint32_t window = layer.shape.attention == AttentionKind::window ? layer.shape.window_tokens : 0;
    const auto it = std::find_if(placed_.begin(), placed_.end(), [&](const auto& p) { return p.first == window; });
    if (it == placed_.end()) {
      placed_.emplace_back(window, 1.0);
    } else {
      it->second += 1;
    }
  }
}

PlannedTraffic PlanTraffic::bytes_of(const Counts& counts, const HeadSlice& slice) const {
  const ModelShape& model = geometry_->spec().model;
  const double experts = geometry_->needs_experts() ? 2.0 * geometry_->top_k() : 0.0;
  const double entry = geometry_->entry_bytes(slice.kv_count);
  const double entry_header = sizeof(EntryHeader) + experts, query_header = sizeof(QueryHeader) + experts;
  const double query = static_cast<double>(slice.q_count) * model.d_k * geometry_->payload_bytes();
  const double partial = slice.q_count * (8.0 + model.d_v * (geometry_->spec().combine == CombineType::bf16 ? 2.0 : 4.0));
  const double lse = geometry_->needs_mass() ? 4.0 * slice.q_count : 0.0;
  PlannedTraffic t;
  t.kv = counts.far_stores * entry;
  t.q = counts.far_reads * query;
  t.partial = counts.far_partials * partial;
  t.lse = counts.far_partials * lse;
  t.headers = counts.far_stores * entry_header + counts.far_reads * query_header + counts.far_partials * sizeof(PartialHeader);
  t.logical =
      counts.stores * (entry + entry_header) + counts.reads * (query + query_header) + counts.partials * (partial + lse + sizeof(PartialHeader));
  return t;
}

PlanTraffic::Counts PlanTraffic::local_counts(const BatchItem& item) const {
  const double queries = n_queries(item);
  return {static_cast<double>(item.end - item.begin), queries, queries, 0, 0, 0};
}

PlannedTraffic PlanTraffic::of_heads(const BatchItem& item) const {
  const bool everywhere_read = geometry_->placement().layout == Layout::head;
  PlannedTraffic sum;
  for (std::uint32_t g = 0; g < geometry_->n_ranks(); ++g) {
    const HeadSlice slice = geometry_->slice(Rank(g));
    if (slice.q_count == 0) continue;
    const bool far = Rank(g) != item.home;
    const double stores = item.end - item.begin;
    const double queries = everywhere_read || !far ? n_queries(item) : 0.0;
    add_traffic(sum, bytes_of({stores, queries, queries, far ? stores : 0, far ? queries : 0, far ? queries : 0}, slice));
  }
  return sum;
}

/// Notes that a position is stored and returns the rank that stores it.
std::uint32_t PlanTraffic::note_written(Written& written, RequestId request, std::uint32_t position) const {
  const Placement& placement = geometry_->placement();
  const std::uint32_t owner = placement.owner(placement.token_shard(request, position)).value;
  written.first.resize(placement.n_ranks, not_written);
  written.last.resize(placement.n_ranks, 0);
  written.first[owner] = std::min(written.first[owner], position);
  written.last[owner] = position;
  return owner;
}

PlanTraffic::Counts PlanTraffic::token_counts(const BatchItem& item, std::uint32_t window, Written written) const {
  Counts counts;
  for (std::uint32_t t = item.begin; t < item.end; ++t) {
    const std::uint32_t owner = note_written(written, item.request, t);
    counts.stores += 1;
    counts.far_stores += Rank(owner) != item.home ? 1.0 : 0.0;
    if (t < item.query_begin) continue;
    const std::uint32_t low = window > 0 && t + 1 > window ? t + 1 - window : 0;
    for (std::uint32_t g = 0; g < geometry_->n_ranks(); ++g) {
      if (written.first[g] == not_written) continue;
      const double far = Rank(g) != item.home ? 1.0 : 0.0;
      const double answers = written.last[g] >= low ? 1.0 : 0.0;
      counts.reads += 1.0;
      counts.far_reads += far;
      counts.partials += answers;
      counts.far_partials += answers * far;
    }
  }
  return counts;
}

PlanTraffic::Counts PlanTraffic::expert_counts(const BatchItem& item) const {
  const std::vector<RankShare>& ranks = shares_->ranks;
  const RankShare& home = ranks[item.home.value];
  const double tokens = item.end - item.begin;
  Counts counts;
  counts.stores = tokens * shares_->copies_per_token;
  counts.far_stores = tokens * (shares_->copies_per_token - home.copies);
  const bool routed = geometry_->spec().read.scope == ReadScope::routed;
  const Placement& placement = geometry_->placement();
  for (std::uint32_t t = std::max(item.begin, item.query_begin); t < item.end; ++t) {
    // A rank is read when it holds any entry of the request (scope all), or one that the query's experts may have stored (routed).
    double exponent = t + 1.0;
    if (routed) exponent = placement.map == ShardMap::pikv_xor ? std::min<double>(placement.n_tok, t + 1.0) : 1.0;
    double last_touched = -1, last_chance = 0;
    for (std::uint32_t g = 0; g < ranks.size(); ++g) {
      if (ranks[g].touched != last_touched) {
        last_touched = ranks[g].touched;
        last_chance = 1.0 - std::pow(1.0 - last_touched, exponent);
      }
      counts.reads += last_chance;
      counts.far_reads += Rank(g) != item.home ? last_chance : 0.0;
    }
  }
  counts.partials = counts.reads;
  counts.far_partials = counts.far_reads;
  return counts;
}

PlannedTraffic PlanTraffic::of(const BatchItem& item) {
  const Layout layout = geometry_->placement().layout;
  const HeadSlice whole{0, geometry_->spec().model.n_kv_heads, 0, geometry_->spec().model.n_heads};
  PlannedTraffic sum;
  for (const auto& [window, layers] : placed_) {
    PlannedTraffic layer;
    switch (layout) {
      case Layout::head:
      case Layout::replicated:
        layer = of_heads(item);
        break;
      case Layout::token:
        layer = bytes_of(token_counts(item, window, written_[item.request.value]), whole);
        break;
      case Layout::expert:
        layer = bytes_of(expert_counts(item), whole);
        break;
      default:
        layer = bytes_of(local_counts(item), whole);
    }
    add_traffic(sum, layer, layers);
  }
  if (home_layers_ > 0) add_traffic(sum, bytes_of(local_counts(item), whole), home_layers_);
  if (layout == Layout::token) {
    Written& written = written_[item.request.value];
    for (std::uint32_t t = item.begin; t < item.end; ++t) note_written(written, item.request, t);
  }
  return sum;
}

}  // namespace moekv
