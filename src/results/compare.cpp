// Values of pairs and the clusters that are resampled: requests, repeats, or pairs.
#include "results/compare.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <map>
#include <optional>
#include <set>

#include "core/error.hpp"
#include "core/rng.hpp"
#include "engine/statistics.hpp"

namespace moekv {
namespace {

constexpr std::size_t resamples = 10000;
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

/// A field of record probe or request, by point and what its row is of.
struct RowOf {
  std::int64_t request, layer = 0, position = 0;
  friend auto operator<=>(const RowOf&, const RowOf&) = default;
};
using RowValues = std::map<std::int64_t, std::map<RowOf, double>>;

/// Rows of a field of a record; nothing where the file has no such field.
std::optional<RowValues> rows_of(const h5::Group& group, const std::string& path, const std::string& name, bool time) {
  if (!group.has(name)) return std::nullopt;
  const auto values = group.dataset(name).read<double>();
  const auto column = [&](const char* of) {
    auto numbers = group.has(of) ? group.dataset(of).read<std::int64_t>() : std::vector<std::int64_t>(values.size());
    if (numbers.size() != values.size())
      throw UserError(path, fmt::format("is damaged: the columns {} and {} of a record differ in length", of, name));
    return numbers;
  };
  for (const char* of : {"point_index", "request"}) {
    if (!group.has(of)) throw UserError(path, fmt::format("is damaged: a record with the column {} has none named {}", name, of));
  }
  const auto points = column("point_index"), requests = column("request"), layers = column("layer"), positions = column("position");
  RowValues rows;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!std::isnan(values[i]) && !(time && values[i] < 0))  // a time that was not reached is -1
      rows[points[i]][{requests[i], layers[i], positions[i]}] = values[i];
  }
  return rows;
}

std::optional<RowValues> row_values(const h5::File& file, const std::string& path, const std::string& metric) {
  if (!metric.ends_with("_mean") || !file.has("record")) return std::nullopt;
  const std::string field = metric.substr(0, metric.size() - 5);
  for (const char* kind : {"record/probe", "record/request"}) {
    if (!file.has(kind)) continue;
    const h5::Group group = file.group(kind);
    if (auto rows = rows_of(group, path, field, false)) return rows;
    if (auto rows = rows_of(group, path, field + "_ns", true)) return rows;
  }
  return std::nullopt;
}

/// Digest of each point's trace; nothing where all have the same.
std::vector<std::string> traces_of(const h5::File& file) {
  const char* name = "provenance/point/trace_digest";
  return file.has("provenance") && file.has("provenance/point") && file.has(name) ? file.dataset(name).read_texts() : std::vector<std::string>{};
}

std::string trace_of(const std::vector<std::string>& traces, std::size_t point) { return point < traces.size() ? traces[point] : std::string(); }

std::uint64_t hash_text(const std::string& text) {
  std::uint64_t hash = text.size();
  for (const char c : text) hash = hash_words(hash, static_cast<unsigned char>(c));
  return hash;
}

/// Means of each request over the rows that both sides have. A request of one trace is a cluster, in however many points it is served.
struct RequestMeans {
  std::vector<PairedValue> values;
  std::size_t unmatched = 0;      // rows of one side alone
  std::size_t without_value = 0;  // pairs without a common row
  bool found = false;             // whether any pair has rows on both sides
};
RequestMeans by_request(const RowValues& rows, const std::vector<std::string>& traces, const PointPairs& pairs) {
  struct Sums {
    double a = 0, b = 0, n = 0;
  };
  RequestMeans out;
  for (const auto& [a, b] : pairs) {
    const auto of_a = rows.find(static_cast<std::int64_t>(a)), of_b = rows.find(static_cast<std::int64_t>(b));
    if (of_a == rows.end() || of_b == rows.end()) {
      ++out.without_value;
      continue;
    }
    out.found = true;
    std::map<std::int64_t, Sums> requests;
    std::size_t both = 0;
    for (const auto& [row, value] : of_a->second) {
      const auto other = of_b->second.find(row);
      if (other == of_b->second.end()) continue;
      Sums& sums = requests[row.request];
      sums = {sums.a + value, sums.b + other->second, sums.n + 1};
      ++both;
    }
    out.unmatched += of_a->second.size() + of_b->second.size() - 2 * both;
    out.without_value += both == 0 ? 1 : 0;
    const std::uint64_t trace = hash_text(trace_of(traces, a));
    for (const auto& [request, sums] : requests)
      out.values.push_back({sums.a / sums.n, sums.b / sums.n, hash_words(trace, static_cast<std::uint64_t>(request))});
  }
  return out;
}

/// Values of a metric of whole runs, one cluster for each group of pairs; groups that are equal in decisions and values are one.
std::vector<PairedValue> in_clusters(const PointTable& table, const std::vector<double>& metric, const PointPairs& pairs,
                                     const std::map<std::string, std::vector<std::size_t>>& groups) {
  const PointColumn* digest = table.find("", "digest");
  const auto decisions = [&](std::size_t point) { return digest != nullptr ? digest->texts[point] : fmt::format("{}", point); };
  std::map<std::string, std::uint64_t> numbers;  // by content
  std::vector<PairedValue> values;
  for (const auto& [name, members] : groups) {
    std::vector<std::string> content;
    const std::size_t first = values.size();
    for (const std::size_t i : members) {
      const auto [a, b] = pairs[i];
      if (std::isnan(metric[a]) || std::isnan(metric[b])) continue;
      values.push_back({metric[a], metric[b], 0});
      content.push_back(fmt::format("{} {} {} {}", decisions(a), decisions(b), metric[a], metric[b]));
    }
    if (content.empty()) continue;
    std::sort(content.begin(), content.end());
    const std::uint64_t number = numbers.emplace(fmt::format("{}", fmt::join(content, "\n")), numbers.size()).first->second;
    for (std::size_t i = first; i < values.size(); ++i) values[i].cluster = number;
  }
  return values;
}

/// Clusters are repeats (or seeds) where there are several that differ, else pairs.
std::vector<PairedValue> by_point(const PointTable& table, const std::vector<double>& metric, const PairedPoints& paired, bool& repeats) {
  const PointPairs& pairs = paired.pairs;
  std::map<std::string, std::vector<std::size_t>> by_repeat, single;
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    by_repeat[paired.repeats[i]].push_back(i);
    single[fmt::format("{:09}", i)] = {i};
  }
  std::vector<PairedValue> values = in_clusters(table, metric, pairs, by_repeat);
  repeats = std::any_of(values.begin(), values.end(), [](const PairedValue& v) { return v.cluster > 0; });
  return repeats ? values : in_clusters(table, metric, pairs, single);
}

/// Sums of differences by cluster, in the order of first appearance.
std::vector<ClusterSum> clusters_of(std::span<const PairedValue> values) {
  std::map<std::uint64_t, std::size_t> index;
  std::vector<ClusterSum> clusters;
  for (const PairedValue& v : values) {
    const auto [it, added] = index.emplace(v.cluster, clusters.size());
    if (added) clusters.emplace_back();
    clusters[it->second].sum += v.a - v.b;
    clusters[it->second].weight += 1;
  }
  return clusters;
}

/// Metrics that say how good the output of attention or of the model is: they differ where a codec does, though no counter does.
bool is_fidelity(const std::string& metric) {
  constexpr std::string_view beginnings[] = {"attn_", "nll", "perplexity", "kl_reference", "top1_agreement", "attention_drift"};
  return std::any_of(std::begin(beginnings), std::end(beginnings), [&](std::string_view beginning) { return metric.starts_with(beginning); });
}

}  // namespace

std::string_view to_string(Verdict verdict) {
  constexpr std::string_view names[] = {"higher", "lower", "no detectable difference", "undecided"};
  return names[static_cast<std::size_t>(verdict)];
}

Comparison compare_values(std::span<const PairedValue> values) {
  const std::vector<ClusterSum> clusters = clusters_of(values);
  Comparison out;
  out.clusters = clusters.size();
  out.low = out.high = nan;
  if (values.empty()) {
    out.mean_a = out.mean_b = out.difference = nan;
    return out;
  }
  const auto n = static_cast<double>(values.size());
  for (const PairedValue& v : values) {
    out.mean_a += v.a / n;
    out.mean_b += v.b / n;
    out.difference += (v.a - v.b) / n;
  }
  if (!std::isfinite(out.difference)) return out;
  if (std::all_of(values.begin(), values.end(), [](const PairedValue& v) { return v.a == v.b; })) {
    out.low = out.high = 0;
    out.verdict = Verdict::no_difference;
    return out;
  }
  const ConfidenceInterval interval = bootstrap_interval(clusters, resamples, 0);
  out.low = interval.low;
  out.high = interval.high;
  if (!std::isnan(out.low)) out.verdict = out.low > 0 ? Verdict::higher : out.high < 0 ? Verdict::lower : Verdict::no_difference;
  return out;
}

Comparison compare_points(const PointTable& table, std::span<const PointList> lists, const std::string& path, const std::string& metric,
                          const PointChoice& a, const PointChoice& b) {
  const PointColumn* column = table.find("metric", metric);
  if (column == nullptr) {
    std::vector<std::string_view> known;
    for (const PointColumn& c : table.columns) {
      if (c.group == "metric") known.emplace_back(c.name);
    }
    const std::string_view near = nearest_name(metric, known);
    throw UserError(path, fmt::format("has no metric '{}'", metric),
                    near.empty() ? "moekv export FILE names them" : fmt::format("did you mean '{}'?", near));
  }
  const PairedPoints paired = pair_points(table, lists, a, b);
  const PointPairs& pairs = paired.pairs;
  const h5::File file = h5::File::open(path);
  const std::vector<std::string> traces = traces_of(file);
  const auto one_trace = [&](const auto& pair) { return trace_of(traces, pair.first) == trace_of(traces, pair.second); };
  const auto rows = row_values(file, path, metric);
  std::size_t different_traces = 0;
  if (rows) different_traces = pairs.size() - static_cast<std::size_t>(std::count_if(pairs.begin(), pairs.end(), one_trace));
  RequestMeans requests;
  if (rows && different_traces == 0) requests = by_request(*rows, traces, pairs);
  bool repeats = false;
  Comparison out = compare_values(requests.found ? requests.values : by_point(table, column->numbers, paired, repeats));
  out.pairs = pairs.size();
  out.unmatched = requests.unmatched;
  out.left_out = paired.left_out;
  out.different_traces = different_traces;
  out.resampled = requests.found ? "requests" : repeats ? "repeats" : "pairs";
  const auto has_value = [&](const auto& pair) { return !std::isnan(column->numbers[pair.first]) && !std::isnan(column->numbers[pair.second]); };
  out.without_value =
      requests.found ? requests.without_value : pairs.size() - static_cast<std::size_t>(std::count_if(pairs.begin(), pairs.end(), has_value));
  if (const PointColumn* queries = table.find("metric", "queries"); queries != nullptr && !requests.found)
    out.different_queries = static_cast<std::size_t>(std::count_if(
        pairs.begin(), pairs.end(), [&](const auto& p) { return one_trace(p) && queries->numbers[p.first] != queries->numbers[p.second]; }));
  out.also_different = paired.also_different;
  return out;
}

std::vector<Effect> audit_effects(const PointTable& table) {
  std::vector<Effect> effects;
  const PointColumn* digest = table.find("", "digest");
  const std::vector<PointList> lists = lists_of(table);
  for (const PointColumn& setting : table.columns) {
    if (setting.group != "setting") continue;
    Effect effect;
    effect.key = setting.name;
    std::set<std::pair<std::size_t, std::size_t>> pairs;
    for (const PointList& list : lists) {
      const PointPairs rows = pairs_of_axis(table, list, setting.name);
      add_different(list, rows, {setting.name}, effect.also_different);
      for (const auto& [first, second] : rows) pairs.insert(std::minmax(list.points[first], list.points[second]));
    }
    effect.pairs = pairs.size();
    for (const auto& [a, b] : pairs) effect.changed_decisions += digest != nullptr && digest->texts[a] != digest->texts[b] ? 1 : 0;
    for (const PointColumn& metric : table.columns) {
      const auto differs = [&](const auto& p) { return metric.texts[p.first] != metric.texts[p.second]; };
      const bool changed = metric.group == "metric" && std::any_of(pairs.begin(), pairs.end(), differs);
      if (is_fidelity(metric.name)) effect.changed_fidelity += changed ? 1 : 0;
      if (metric.group != "metric" || metric.claim != "counted") continue;
      effect.counters += 1;
      effect.changed_counters += changed ? 1 : 0;
    }
    effects.push_back(std::move(effect));
  }
  return effects;
}

}  // namespace moekv
