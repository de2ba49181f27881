// How columns are written into result files: attributes of METRICS 7.0, small ones contiguous, large ones compressed, each with its scale.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "io/hdf5.hpp"
#include "results/facts.hpp"
#include "results/record_table.hpp"

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

}  // namespace moekv
