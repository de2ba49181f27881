// read_run_spec: a YAML file and overrides of the command line become a complete, checked RunSpec.
#pragma once

#include <string>
#include <vector>

#include "engine/run_spec.hpp"

namespace moekv {

/// Throws UserError with every problem of the file, of the files it includes, of the overrides ("key.path=value") and of their combination.
/// `n_processes` is the default of cluster.ranks and its lower bound.
[[nodiscard]] RunSpec read_run_spec(const std::string& path, const std::vector<std::string>& overrides = {}, int n_processes = 1);

}  // namespace moekv
