// The columns of many runs while they are collected one run after another.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "results/record_table.hpp"
#include "results/run_file.hpp"

namespace moekv {

/// A column of texts along the points; what a point lacks is empty.
struct TextColumn {
  std::string name, unit, definition;
  bool swept = false;
  std::vector<std::optional<std::string>> values;
};
struct MetricColumn {
  Summary about;
  std::vector<double> value, numerator, denominator, model;
  bool ratio = false, predicted = false;
};

/// Columns by name in the order of their first appearance.
template <class Column>
class Columns {
 public:
  explicit Columns(std::size_t n) : n_(n) {}
  /// The column, made by `make` where it is new; `size` sets its length.
  template <class Make>
  Column& of(const std::string& name, Make&& make) {
    const auto [it, added] = index_.emplace(name, list_.size());
    if (added) list_.push_back(make(n_));
    return list_[it->second];
  }
  [[nodiscard]] std::vector<Column>& list() { return list_; }

 private:
  std::size_t n_;
  std::map<std::string, std::size_t> index_;
  std::vector<Column> list_;
};

/// Everything of all points but their own columns.
class Collected {
 public:
  explicit Collected(std::size_t n) : parameters(n), settings(n), facts(n), metrics(n), digests(n, std::string(32, '0')), labels(n), notes(n) {}

  void add(std::size_t i, RunFile run, bool with_records) {
    for (const Parameter& p : run.parameters) {
      TextColumn& column = parameters.of(p.name, [&](std::size_t n) {
        return TextColumn{p.name, p.unit, p.definition, false, std::vector<std::optional<std::string>>(n)};
      });
      column.values[i] = p.text;
      column.swept = column.swept || p.swept;
    }
    for (const Summary& s : run.outcome.summary) add_metric(i, s);
    for (const Fact& fact : run.facts.list()) add_fact(i, "", fact, run.facts.text(fact.name));
    for (const Fact& fact : run.provenance.list()) add_fact(i, "provenance", fact, run.provenance.text(fact.name));
    for (const HostFacts& host : run.hosts) {
      const auto same = [&](const HostFacts& h) {
        return std::tie(h.host, h.cpus, h.openmp_threads) == std::tie(host.host, host.cpus, host.openmp_threads);
      };
      if (std::none_of(hosts.begin(), hosts.end(), same)) hosts.push_back(host);
    }
    digests[i] = to_hex(run.outcome.digest);
    labels[i] = fmt::format("{}", fmt::join(run.outcome.labels, " "));
    notes[i] = fmt::format("{}", fmt::join(run.outcome.notes, "\n"));
    if (with_records) add_records(i, run.outcome);
  }

  void add_setting(std::size_t i, const std::string& key, const std::string& value) {
    settings
        .of(key,
            [&](std::size_t n) {
              return TextColumn{key, "1", "value that an axis chose, as the sweep file gives it", true, std::vector<std::optional<std::string>>(n)};
            })
        .values[i] = value;
  }

  Columns<TextColumn> parameters, settings, facts;
  Columns<MetricColumn> metrics;
  std::vector<std::string> digests, labels, notes;
  std::vector<HostFacts> hosts;
  std::map<std::string, FactValue> native;                      // of facts, as their first point has them
  RunOutcome records;                                           // rows of all points
  std::map<std::string, std::vector<std::int32_t>> row_points;  // by kind: the point of each row

 private:
  void add_metric(std::size_t i, const Summary& s) {
    constexpr double missing = std::numeric_limits<double>::quiet_NaN();
    MetricColumn& column = metrics.of(s.name, [&](std::size_t n) {
      const std::vector<double> empty(n, missing);
      return MetricColumn{s, empty, empty, empty, empty};
    });
    column.value[i] = s.value;
    column.model[i] = s.model;
    column.predicted = column.predicted || std::isfinite(s.model);
    if (s.numerator == 0 && s.denominator == 0) return;
    column.ratio = true;
    column.numerator[i] = s.numerator;
    column.denominator[i] = s.denominator;
  }
  /// A fact of the root has no group; both kinds may have a name in common.
  void add_fact(std::size_t i, const std::string& group, const Fact& fact, const std::string& text) {
    const std::string key = group + "/" + fact.name;
    native.emplace(key, fact.value);
    facts
        .of(key,
            [&](std::size_t n) {
              return TextColumn{key, "1", "attribute of the point's own result", false, std::vector<std::optional<std::string>>(n)};
            })
        .values[i] = text;
  }
  void add_records(std::size_t i, RunOutcome& outcome) {
    std::map<std::string, std::size_t> sizes;
    for_each_record(outcome, [&](const std::string& kind, auto& rows) { sizes[kind] = rows.size(); });
    append_all(outcome);
    sizes["digest"] = outcome.window_digests.size();
    records.window_digests.insert(records.window_digests.end(), outcome.window_digests.begin(), outcome.window_digests.end());
    for (const auto& [kind, n] : sizes) row_points[kind].insert(row_points[kind].end(), n, static_cast<std::int32_t>(i));
  }
  void append_all(const RunOutcome& outcome) {
    for_each_record(records, [&](const std::string& kind, auto& into) {
      for_each_record(outcome, [&](const std::string& other, const auto& rows) {
        if constexpr (std::is_same_v<std::decay_t<decltype(rows)>, std::decay_t<decltype(into)>>) {
          if (kind == other) into.insert(into.end(), rows.begin(), rows.end());
        }
      });
    });
  }
};

}  // namespace moekv
