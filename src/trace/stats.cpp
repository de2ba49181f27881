// compute_stats: walks a trace twice per group of layers and feeds whole requests to the accumulators.
#include "trace/stats.hpp"

#include <algorithm>
#include <cmath>
#include <functional>

#include "trace/stats_detail.hpp"

namespace moekv {
namespace {

constexpr std::uint64_t group_bytes = std::uint64_t{256} << 20;

/// The accumulators of one layer. `pairs` speaks of this layer and the next.
struct LayerAccumulator {
  stats::LoadStats load;
  stats::ReuseStats reuse;
  stats::CacheStats cache;
  std::vector<stats::WindowStats> windows;  // by window_lengths
  stats::PairStats pairs;

  static constexpr std::uint32_t window_lengths[] = {4, 8, 16, 32, 64, 128};

  LayerAccumulator(std::uint32_t n_experts, std::uint32_t top_k, const std::vector<stats::Batches>& batches)
      : load(n_experts, top_k, batches), reuse(n_experts, top_k), cache(n_experts, top_k), pairs(n_experts, top_k) {
    for (const std::uint32_t tokens : window_lengths) windows.emplace_back(n_experts, top_k, tokens);
  }

  void add(const stats::SequenceView& s) {
    load.add(s);
    reuse.add(s);
    cache.add(s);
    for (stats::WindowStats& w : windows) w.add(s);
  }

  [[nodiscard]] LayerStats finish() const {
    LayerStats out;
    load.finish(out);
    reuse.finish(out);
    cache.finish(out);
    pairs.finish(out);
    out.srp_4 = windows[0].best_f1();
    out.distinct_8 = windows[1].distinct_share();
    out.srp_16 = windows[2].best_f1();
    out.distinct_32 = windows[3].distinct_share();
    out.fano_32 = windows[3].fano();
    out.srp_64 = windows[4].best_f1();
    out.distinct_128 = windows[5].distinct_share();
    return out;
  }
};

/// Layers [begin, end) of a group, plus the one after it where there is one: its rows are read for the pairs only.
struct LayerGroup {
  std::uint32_t begin, end, read_end;
};

/// Calls visit(views) for every request, one view per layer of the group that is read.
void for_each_request(TraceSource& trace, const LayerGroup& group, const std::function<void(const std::vector<stats::SequenceView>&)>& visit) {
  const std::uint32_t k = trace.info().top_k, n_layers = group.read_end - group.begin;
  RoutingRows rows;
  std::vector<stats::SequenceView> views(n_layers);
  std::uint64_t first_token = 0;
  for (std::uint32_t r = 0; r < trace.n_requests(); ++r) {
    const std::uint32_t n_tokens = trace.request(RequestId(r)).total_tokens();
    trace.read(RequestId(r), 0, n_tokens, group.begin, group.read_end, WantLogits::no, rows);
    for (std::uint32_t l = 0; l < n_layers; ++l) {
      const std::size_t offset = static_cast<std::size_t>(l) * k;
      views[l] = {rows.ids.data() + offset,
                  rows.weights.empty() ? nullptr : rows.weights.data() + offset,
                  n_tokens,
                  k,
                  static_cast<std::size_t>(n_layers) * k,
                  first_token};
    }
    if (n_tokens > 0) visit(views);
    first_token += n_tokens;
  }
}

std::vector<LayerStats> group_stats(TraceSource& trace, const LayerGroup& group, const std::vector<stats::Batches>& batches) {
  const TraceInfo& info = trace.info();
  const std::size_t n_own = group.end - group.begin, n_read = group.read_end - group.begin;
  std::vector<LayerAccumulator> layers;
  for (std::size_t l = 0; l < n_read; ++l) layers.emplace_back(info.n_experts, info.top_k, batches);
  for_each_request(trace, group, [&](const std::vector<stats::SequenceView>& views) {
    for (std::size_t l = 0; l < n_read; ++l) {
      l < n_own ? layers[l].add(views[l]) : layers[l].load.add(views[l]);
      if (l < n_own && l + 1 < n_read) layers[l].pairs.add(views[l], views[l + 1]);
    }
  });
  for_each_request(trace, group, [&](const std::vector<stats::SequenceView>& views) {
    for (std::size_t l = 0; l < n_own; ++l) {
      layers[l].load.add_divergence(views[l]);
      if (l + 1 < n_read) layers[l].pairs.add_guesses(views[l], views[l + 1], layers[l].load.load(), layers[l + 1].load.load());
    }
  });
  std::vector<LayerStats> out;
  for (std::size_t l = 0; l < n_own; ++l) out.push_back(layers[l].finish());
  return out;
}

/// Median of the finite values; NaN when there is none.
double median(std::vector<double> values) {
  std::erase_if(values, [](double v) { return !std::isfinite(v); });
  if (values.empty()) return LayerStats::undefined;
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : 0.5 * (values[half - 1] + values[half]);
}

LayerStats median_of(const std::vector<LayerStats>& layers) {
  LayerStats out;
  for_each_field(LayerStats::fields, [&](const auto& field) {
    std::vector<double> values;
    values.reserve(layers.size());
    for (const LayerStats& l : layers) values.push_back(l.*field.member);
    out.*field.member = median(std::move(values));
  });
  for (std::vector<double> LayerStats::*const ranks : {&LayerStats::reuse_by_rank, &LayerStats::weight_by_rank}) {
    for (std::size_t i = 0; !layers.empty() && i < (layers.front().*ranks).size(); ++i) {
      std::vector<double> values;
      for (const LayerStats& l : layers)
        if (i < (l.*ranks).size()) values.push_back((l.*ranks)[i]);
      (out.*ranks).push_back(median(std::move(values)));
    }
  }
  return out;
}

}  // namespace

TraceStats compute_stats(TraceSource& trace) {
  const TraceInfo& info = trace.info();
  TraceStats out;
  out.n_requests = trace.n_requests();
  out.n_experts = info.n_experts;
  out.top_k = info.top_k;
  out.moe_layers = info.moe_layers;
  std::uint64_t longest = 0;
  for (std::uint32_t r = 0; r < out.n_requests; ++r) {
    const std::uint64_t n = trace.request(RequestId(r)).total_tokens();
    out.n_tokens += n;
    longest = std::max(longest, n);
  }
  const std::vector<stats::Batches> batches = {stats::draw_batches(out.n_tokens, 64, 256), stats::draw_batches(out.n_tokens, 1024, 64)};
  const std::uint64_t rows_bytes = longest * info.top_k * (sizeof(std::uint16_t) + sizeof(float));
  const std::uint64_t pairs_bytes = 12ULL * info.n_experts * info.n_experts;
  const auto n_layers = static_cast<std::uint32_t>(info.moe_layers.size());
  const std::uint64_t fit = std::max<std::uint64_t>(1, group_bytes / std::max<std::uint64_t>(1, std::max(rows_bytes, pairs_bytes)));
  const auto step = static_cast<std::uint32_t>(std::min<std::uint64_t>(fit, std::max(1U, n_layers)));
  for (std::uint32_t begin = 0; begin < n_layers; begin += step) {
    const std::uint32_t end = std::min(n_layers, begin + step);
    for (LayerStats& layer : group_stats(trace, {begin, end, std::min(n_layers, end + 1)}, batches)) out.layers.push_back(std::move(layer));
  }
  out.median = median_of(out.layers);
  return out;
}

}  // namespace moekv
