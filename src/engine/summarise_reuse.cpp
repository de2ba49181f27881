// When pages are looked up again and how old they are when they go: summaries of log2 histograms.
#include <cmath>
#include <limits>
#include <map>

#include "engine/summary_list.hpp"

namespace moekv {
namespace {

struct Bin {
  std::int64_t count = 0, total = 0;
};

/// Mean of the bin that holds the nearest-rank sample.
double percentile_of(const std::map<std::int64_t, Bin>& bins, std::int64_t n, double p) {
  auto rank = static_cast<std::int64_t>(std::ceil(static_cast<double>(n) * p / 100.0));
  for (const auto& [low, bin] : bins) {
    rank -= bin.count;
    if (rank <= 0 && bin.count > 0) return static_cast<double>(bin.total) / static_cast<double>(bin.count);
  }
  return std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

void add_reuse(std::span<const HistogramRecord> rows, SummaryList& list) {
  const std::string texts[n_histograms] = {"lookups of its budget's pages between a page's first entry, or its return, and its eviction",
                                           "distinct other pages of its budget looked up between two lookups of a page",
                                           "lookups of its budget's pages between two lookups of a page"};
  for (std::size_t h = 0; h < n_histograms; ++h) {
    std::map<std::int64_t, Bin> bins;
    Bin all;
    for (const HistogramRecord& r : rows) {
      if (r.histogram != static_cast<std::int64_t>(h)) continue;
      for (Bin* bin : {&bins[r.low], &all}) {
        bin->count += r.count;
        bin->total += r.total;
      }
    }
    const std::string name(to_string(static_cast<HistogramOf>(h)));
    list.add(name + "_n", {"1", ClaimClass::counted, texts[h] + "; how many"}, static_cast<double>(all.count));
    list.add_ratio(name + "_mean", {"1", ClaimClass::counted, texts[h] + "; mean"}, static_cast<double>(all.total), static_cast<double>(all.count));
    for (const auto& [label, p] : {std::pair{"_p50", 50.0}, {"_p90", 90.0}, {"_p99", 99.0}}) {
      list.add(name + label, {"1", ClaimClass::counted, texts[h] + "; mean of the log2 bin that holds the nearest-rank percentile"},
               percentile_of(bins, all.count, p));
    }
  }
}

}  // namespace moekv
