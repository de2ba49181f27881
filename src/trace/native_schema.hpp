// What a native trace says about itself outside its rows: checks a WriterSpec and writes the attributes and /model.
#pragma once

#include <string>
#include <vector>

#include "core/error.hpp"
#include "io/hdf5.hpp"
#include "trace/writer.hpp"

namespace moekv::native {

/// Every reason why `spec` cannot describe a trace, with `path` as the place.
[[nodiscard]] std::vector<Problem> problems_of(const WriterSpec& spec, const std::string& path);
/// The text, or its beginning and "...", as long as a reader of foreign files accepts.
[[nodiscard]] std::string clipped(const std::string& text);
/// Root attributes and /model of a new file.
void write_facts(h5::File& file, const WriterSpec& spec);

}  // namespace moekv::native
