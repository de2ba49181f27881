// The list of record kinds with their names in a result file; a new kind of record is one line here.
#pragma once

#include <string_view>

#include "engine/records.hpp"

namespace moekv {

/// Version of the records' definitions, stored with every dataset.
inline constexpr int record_version = 1;

/// Calls f(name, rows) for every kind of record of an outcome (const or not).
template <class Outcome, class F>
void for_each_record(Outcome&& outcome, F&& f) {
  f("step", outcome.steps);
  f("layer", outcome.layers);
  f("load", outcome.loads);
  f("layer_load", outcome.layer_loads);
  f("histogram", outcome.histograms);
  f("codec", outcome.codecs);
  f("traffic", outcome.traffic);
  f("allocation", outcome.allocations);
  f("request", outcome.requests);
  f("gap", outcome.gaps);
  f("probe", outcome.probes);
  f("token", outcome.tokens);
  f("drift", outcome.drifts);
  f("bound", outcome.bounds);
  f("mass_bound", outcome.mass_bounds);
}

/// One column of rows.
template <class Record, class T>
[[nodiscard]] std::vector<T> column_of(const std::vector<Record>& rows, T Record::*member) {
  std::vector<T> column;
  column.reserve(rows.size());
  for (const Record& row : rows) column.push_back(row.*member);
  return column;
}

}  // namespace moekv
