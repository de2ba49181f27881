// How columns are written into result files: attributes of METRICS 7.0, small ones contiguous, large ones compressed, each with its scale.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/number_text.hpp"
#include "io/hdf5.hpp"
#include "results/facts.hpp"
#include "results/provenance.hpp"
#include "results/record_table.hpp"
#include "results/run_file.hpp"

namespace moekv {

inline constexpr std::uint64_t chunk_rows = 4096;

/// The attributes that METRICS 7.0 asks of every dataset.
struct About {
  std::string_view unit, definition;
  std::string_view window;  // cumulative (over the run) or interval (of one row)
  std::string_view scope;
  std::string_view claim;
};

inline void describe(h5::Dataset& dataset, const About& about) {
  dataset.set("units", about.unit);
  dataset.set("definition", about.definition);
  dataset.set("window", about.window);
  dataset.set("scope", about.scope);
  dataset.set("claim_class", about.claim);
  dataset.set("version", record_version);
}

/// Small columns stay contiguous; large ones are cut into compressed chunks.
inline h5::Storage storage_for(std::uint64_t rows) {
  h5::Storage storage;
  if (rows > chunk_rows) {
    storage.chunk = {chunk_rows};
    storage.deflate_level = 1;
    storage.shuffle = true;
  }
  return storage;
}

/// Definition of a column that every point has.
[[nodiscard]] constexpr std::string_view point_definition(std::string_view name) {
  constexpr std::pair<std::string_view, std::string_view> definitions[] = {
      {"point_id", "names the configuration: start of a digest of what decides"},
      {"label", "name of the case in its sweep"},
      {"repeat", "repeat of the same configuration, from 0"},
      {"status", "how the run ended"},
      {"error", "why the run failed or is not finished, a reason per line"},
      {"attempts", "how often this point was run"},
      {"wall_time", "wall time of the replay"},
      {"started", "start of the run, UTC"},
      {"labels", "what a reader of the numbers must know, separated by blanks"},
      {"notes", "remarks of the run, one per line"},
      {"digest", "sum modulo 2^128 of XXH3-128 over all decisions; zero where there is no result"}};
  for (const auto& [column, definition] : definitions) {
    if (column == name) return definition;
  }
  throw std::logic_error("no column of points is called so");
}

/// Says what the numbers of a status, or 0 and 1 of a truth value, stand for.
inline void name_statuses(h5::Dataset& dataset) {
  dataset.set("flag_values", std::vector<std::uint8_t>{0, 1, 2, 3, 4});
  dataset.set("flag_meanings", fmt::format("{}", fmt::join(run_status_names, " ")));
}
inline void name_truth_values(h5::Dataset& dataset) {
  dataset.set("flag_values", std::vector<std::uint8_t>{0, 1});
  dataset.set("flag_meanings", "false true");
}

/// The number that a parameter's text stands for: finite, and of whole numbers those that a double holds.
[[nodiscard]] inline std::optional<double> real_of(std::string_view text) {
  const auto value = parse_whole<double>(text);
  const bool whole = text.find_first_not_of("-0123456789") == std::string_view::npos;
  return value && std::isfinite(*value) && (!whole || std::abs(*value) < 0x1p53) ? value : std::nullopt;
}

/// Rows of a table share one dimension scale, named `row`.
class ColumnTable {
 public:
  ColumnTable(h5::Group& parent, const std::string& name, std::uint64_t rows) : group_(parent.create_group(name)), scale_(make_scale(group_, rows)) {}

  template <class T>
  void column(const std::string& name, const std::vector<T>& values, const About& about) {
    auto dataset = group_.write(name, values, storage_for(values.size()));
    finish(dataset, about);
  }
  void column(const std::string& name, const std::vector<std::string>& texts, const About& about) {
    std::vector<std::string> clean;
    for (const std::string& text : texts) clean.push_back(valid_utf8(text));
    auto dataset = group_.write(name, clean);
    finish(dataset, about);
  }

 private:
  static h5::Dataset make_scale(h5::Group& group, std::uint64_t rows) {
    std::vector<std::int32_t> index(rows);
    for (std::uint64_t i = 0; i < rows; ++i) index[i] = static_cast<std::int32_t>(i);
    auto scale = group.write("row", index, storage_for(rows));
    scale.make_scale("row");
    return scale;
  }
  void finish(h5::Dataset& dataset, const About& about) {
    dataset.attach_scale(scale_, 0);
    describe(dataset, about);
  }

  h5::Group group_;
  h5::Dataset scale_;
};

/// provenance/host: a row per process.
inline void write_hosts(h5::Group& provenance, const std::vector<HostFacts>& hosts) {
  ColumnTable table(provenance, "host", hosts.size());
  for_each_field(HostFacts::fields, [&](const auto& field) {
    table.column(std::string(field.name), column_of(hosts, field.member), {field.unit, field.doc, "cumulative", "global", "measured"});
  });
}

inline constexpr std::int64_t steps_of_digest = 64;  // of a window's
/// Columns of record/digest.
inline void write_digests(ColumnTable& table, const std::vector<std::int64_t>& first_steps, const std::vector<Digest128>& digests) {
  std::vector<std::string> texts;
  for (const Digest128& digest : digests) texts.push_back(to_hex(digest));
  table.column("first_step", first_steps, {"1", "index of the first of 64 steps", "interval", "global", "counted"});
  table.column("digest", texts, {"1", "digest of the decisions of these steps", "interval", "global", "counted"});
}

}  // namespace moekv
