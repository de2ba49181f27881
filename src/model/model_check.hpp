// Checks of a model file: its attributes become a DecoderSpec, its datasets are compared with what that spec needs.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "model/model_file.hpp"

namespace moekv::model_check {

inline constexpr const char* see_format = "configs/models/README.md describes the format";

/// Attributes of the root and of the layer groups; problems are appended, and what could not be read keeps its default.
[[nodiscard]] DecoderSpec read_spec(const h5::File& file, std::vector<Problem>& problems);

/// Names and shapes of all datasets, `dims` by path, against the spec. Fills DecoderLayer::moe and ::sinks.
void check_datasets(const std::string& path, const std::map<std::string, h5::Dims>& dims, DecoderSpec& spec, std::vector<Problem>& problems);

}  // namespace moekv::model_check
