// Pairs by equal remaining settings; a percentile bootstrap over clusters whose draws are a hash of their indices.
#include "results/compare.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <sstream>

#include "core/error.hpp"
#include "core/rng.hpp"

namespace moekv {
namespace {

constexpr std::size_t resamples = 10000;
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

/// A key of a point: setting, label or repeat; nothing where the table has no such column.
const std::string* value_of(const PointTable& table, const std::string& key, std::size_t point) {
  for (const char* group : {"setting", "param", ""}) {
    const PointColumn* column = table.find(group, key);
    if (column != nullptr) return &column->texts[point];
  }
  return nullptr;
}

bool matches(const PointTable& table, const PointChoice& choice, std::size_t point) {
  return std::all_of(choice.begin(), choice.end(), [&](const auto& wanted) {
    const std::string* value = value_of(table, wanted.first, point);
    if (value == nullptr)
      throw UserError(wanted.first, "is no setting, parameter or label of this file", "moekv export FILE names them in its first line");
    return same_value(*value, wanted.second);
  });
}

bool is_ok(const PointTable& table, std::size_t point) {
  const PointColumn* status = table.find("", "status");
  return status != nullptr && status->texts[point] == "ok";
}

/// Everything that a point has been given besides the keys of `left_out`, once for every list of a sweep that names it.
std::vector<std::string> remaining(const PointTable& table, std::size_t point, const std::vector<std::string>& left_out) {
  std::string text;
  for (const PointColumn& column : table.columns) {
    const bool identifies = column.group == "setting" || (column.group.empty() && (column.name == "label" || column.name == "repeat"));
    if (!identifies || std::find(left_out.begin(), left_out.end(), column.name) != left_out.end()) continue;
    text += fmt::format("{}={}\n", column.name, column.texts[point]);
  }
  const PointColumn* lists = table.find("", "lists");
  std::istringstream numbers(lists != nullptr ? lists->texts[point] : "");
  std::vector<std::string> out;
  for (std::string number; numbers >> number;) out.push_back("list=" + number + "\n" + text);
  if (out.empty()) out.push_back(std::move(text));
  return out;
}

/// Points of a choice that may be compared.
std::vector<std::size_t> comparable(const PointTable& table, const PointChoice& choice, std::size_t& left_out) {
  const PointColumn* labels = table.find("", "labels");
  std::vector<std::size_t> points;
  for (std::size_t i = 0; i < table.n_points; ++i) {
    if (!is_ok(table, i) || !matches(table, choice, i)) continue;
    const bool idle = labels != nullptr && labels->texts[i].find("not_exercised") != std::string::npos;
    left_out += idle ? 1 : 0;
    if (!idle) points.push_back(i);
  }
  return points;
}

/// Pairs (a, b) of points.
std::vector<std::pair<std::size_t, std::size_t>> pair_points(const PointTable& table, const PointChoice& a, const PointChoice& b,
                                                             std::size_t& left_out) {
  std::vector<std::string> keys;
  for (const PointChoice* choice : {&a, &b}) {
    for (const auto& [key, value] : *choice) keys.push_back(key);
  }
  std::map<std::string, std::size_t> partners;
  for (const std::size_t i : comparable(table, b, left_out)) {
    for (const std::string& key : remaining(table, i, keys)) {
      if (!partners.emplace(key, i).second)
        throw UserError(table.title, "a point has several partners in this comparison", "name more keys on the second side");
    }
  }
  std::set<std::pair<std::size_t, std::size_t>> pairs;
  for (const std::size_t i : comparable(table, a, left_out)) {
    for (const std::string& key : remaining(table, i, keys)) {
      if (const auto it = partners.find(key); it != partners.end() && it->second != i) pairs.emplace(i, it->second);
    }
  }
  return {pairs.begin(), pairs.end()};
}

/// A field of record probe or request, by point and what its row is of.
struct RowOf {
  std::int64_t request, layer = 0, position = 0;
  friend auto operator<=>(const RowOf&, const RowOf&) = default;
};
using RowValues = std::map<std::int64_t, std::map<RowOf, double>>;

std::optional<RowValues> row_values(const std::string& path, const std::string& metric) {
  if (!metric.ends_with("_mean")) return std::nullopt;
  const std::string field = metric.substr(0, metric.size() - 5);
  const h5::File file = h5::File::open(path);
  for (const char* kind : {"record/probe", "record/request"}) {
    if (!file.has("record") || !file.has(kind)) continue;
    const h5::Group group = file.group(kind);
    for (const std::string& name : {field, field + "_ns"}) {
      if (!group.has(name) || !group.has("point_index")) continue;
      const auto column = [&](const char* of) { return group.has(of) ? group.dataset(of).read<std::int64_t>() : std::vector<std::int64_t>{}; };
      const auto points = column("point_index"), requests = column("request"), layers = column("layer"), positions = column("position");
      const auto values = group.dataset(name).read<double>();
      RowValues rows;
      for (std::size_t i = 0; i < values.size(); ++i) {
        if (std::isnan(values[i]) || (name != field && values[i] < 0)) continue;  // a time that was not reached is -1
        rows[points[i]][{requests[i], layers.empty() ? 0 : layers[i], positions.empty() ? 0 : positions[i]}] = values[i];
      }
      return rows;
    }
  }
  return std::nullopt;
}

/// Means of each request over the rows that both sides have.
std::vector<PairedValue> by_request(const PointTable& table, const RowValues& rows, const std::vector<std::pair<std::size_t, std::size_t>>& pairs,
                                    std::size_t& unmatched) {
  struct Sums {
    double a = 0, b = 0, n = 0;
  };
  std::vector<PairedValue> values;
  for (const auto& [a, b] : pairs) {
    const auto of_a = rows.find(static_cast<std::int64_t>(a)), of_b = rows.find(static_cast<std::int64_t>(b));
    if (of_a == rows.end() || of_b == rows.end()) continue;
    std::map<std::int64_t, Sums> requests;
    std::size_t both = 0;
    for (const auto& [row, value] : of_a->second) {
      const auto other = of_b->second.find(row);
      if (other == of_b->second.end()) continue;
      Sums& sums = requests[row.request];
      sums = {sums.a + value, sums.b + other->second, sums.n + 1};
      ++both;
    }
    unmatched += of_a->second.size() + of_b->second.size() - 2 * both;
    const std::string* repeat = value_of(table, "repeat", a);
    const std::uint64_t sequences = repeat == nullptr ? 0 : mix64(std::stoull(*repeat));
    for (const auto& [request, sums] : requests)
      values.push_back({sums.a / sums.n, sums.b / sums.n, hash_words(sequences, static_cast<std::uint64_t>(request))});
  }
  return values;
}

/// Sums of differences by cluster, in the order of first appearance.
struct Cluster {
  double difference = 0, n = 0;
};
std::vector<Cluster> clusters_of(std::span<const PairedValue> values) {
  std::map<std::uint64_t, std::size_t> index;
  std::vector<Cluster> clusters;
  for (const PairedValue& v : values) {
    const auto [it, added] = index.emplace(v.cluster, clusters.size());
    if (added) clusters.emplace_back();
    clusters[it->second].difference += v.a - v.b;
    clusters[it->second].n += 1;
  }
  return clusters;
}

}  // namespace

std::string_view to_string(Verdict verdict) {
  constexpr std::string_view names[] = {"higher", "lower", "no detectable difference", "undecided"};
  return names[static_cast<std::size_t>(verdict)];
}

bool same_value(const std::string& a, const std::string& b) {
  if (a == b) return true;
  const auto number = [](const std::string& text) -> std::optional<double> {
    if (text == "true" || text == "false") return text == "true" ? 1 : 0;
    double value = 0;
    const auto end = std::from_chars(text.data(), text.data() + text.size(), value);
    return end.ec == std::errc() && end.ptr == text.data() + text.size() ? std::optional(value) : std::nullopt;
  };
  const auto x = number(a), y = number(b);
  return x && y && *x == *y;
}

Comparison compare_values(std::span<const PairedValue> values) {
  const std::vector<Cluster> clusters = clusters_of(values);
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
  const bool equal = std::all_of(values.begin(), values.end(), [](const PairedValue& v) { return v.a == v.b; });
  if (equal) out.low = out.high = 0;
  if (equal || clusters.size() < 2) {
    out.verdict = equal ? Verdict::no_difference : Verdict::undecided;
    return out;
  }
  std::vector<double> means(resamples);
  for (std::size_t r = 0; r < resamples; ++r) {
    Cluster sum;
    for (std::size_t c = 0; c < clusters.size(); ++c) {
      const Cluster& drawn = clusters[hash_words(0, r, c) % clusters.size()];
      sum.difference += drawn.difference;
      sum.n += drawn.n;
    }
    means[r] = sum.difference / sum.n;
  }
  std::sort(means.begin(), means.end());
  out.low = means[resamples / 40];  // 2.5 % on each side
  out.high = means[resamples - 1 - resamples / 40];
  out.verdict = out.low > 0 ? Verdict::higher : out.high < 0 ? Verdict::lower : Verdict::no_difference;
  return out;
}

Comparison compare_points(const PointTable& table, const std::string& path, const std::string& metric, const PointChoice& a, const PointChoice& b) {
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
  std::size_t left_out = 0;
  const auto pairs = pair_points(table, a, b, left_out);
  std::vector<PairedValue> values;
  std::size_t unmatched = 0, different_queries = 0;
  if (const auto rows = row_values(path, metric)) values = by_request(table, *rows, pairs, unmatched);
  const bool requests = !values.empty();
  for (std::size_t i = 0; i < pairs.size() && !requests; ++i) {
    const double x = column->numbers[pairs[i].first], y = column->numbers[pairs[i].second];
    if (!std::isnan(x) && !std::isnan(y)) values.push_back({x, y, i});
  }
  if (const PointColumn* queries = table.find("metric", "queries"); queries != nullptr && !requests)
    different_queries = static_cast<std::size_t>(
        std::count_if(pairs.begin(), pairs.end(), [&](const auto& p) { return queries->numbers[p.first] != queries->numbers[p.second]; }));
  Comparison out = compare_values(values);
  out.pairs = pairs.size();
  out.unmatched = unmatched;
  out.different_queries = different_queries;
  out.left_out = left_out;
  out.resampled = requests ? "requests" : "pairs";
  return out;
}

std::vector<Effect> audit_effects(const PointTable& table) {
  std::vector<Effect> effects;
  const PointColumn* digest = table.find("", "digest");
  for (const PointColumn& setting : table.columns) {
    if (setting.group != "setting") continue;
    Effect effect{setting.name, 0, 0, 0, 0};
    std::map<std::string, std::size_t> first;
    std::set<std::pair<std::size_t, std::size_t>> pairs;
    for (std::size_t i = 0; i < table.n_points; ++i) {
      if (!is_ok(table, i)) continue;
      for (const std::string& key : remaining(table, i, {setting.name})) {
        const auto [it, added] = first.emplace(key, i);
        if (!added && setting.texts[it->second] != setting.texts[i]) pairs.emplace(it->second, i);
      }
    }
    effect.pairs = pairs.size();
    for (const auto& [a, b] : pairs) effect.changed_decisions += digest != nullptr && digest->texts[a] != digest->texts[b] ? 1 : 0;
    for (const PointColumn& metric : table.columns) {
      if (metric.group != "metric" || metric.claim != "counted" || metric.name == "buffer_bytes") continue;
      effect.counters += 1;
      effect.changed_counters +=
          std::any_of(pairs.begin(), pairs.end(), [&](const auto& p) { return metric.texts[p.first] != metric.texts[p.second]; }) ? 1 : 0;
    }
    effects.push_back(std::move(effect));
  }
  return effects;
}

}  // namespace moekv
