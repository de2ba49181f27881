// read_run_spec: a YAML file and overrides of the command line become a complete, checked RunSpec; read_model: a model file becomes its shape.
#pragma once

#include <string>
#include <vector>

#include "engine/run_spec.hpp"

namespace moekv {

/// Throws UserError with every problem of the file, of the files it includes, of the overrides ("key.path=value") and of their combination.
/// `n_processes` is the default of cluster.ranks and its lower bound.
[[nodiscard]] RunSpec read_run_spec(const std::string& path, const std::vector<std::string>& overrides = {}, int n_processes = 1);

/// The same from text, called `name` in messages; relative paths start at the current directory.
[[nodiscard]] RunSpec parse_run_spec(const std::string& text, const std::string& name, int n_processes = 1,
                                      const std::vector<std::string>& overrides = {});

struct ConfigTree;
struct Assignment;
/// A specification from a root that was read already (read_root), with values laid over it. `name` is the file, for messages and defaults.
[[nodiscard]] RunSpec make_run_spec(ConfigTree tree, const std::vector<Assignment>& values, const std::string& name, int n_processes);

/// The shape that `name` stands for: a file of configs/models, or the path of one. Throws UserError with every problem of the file.
[[nodiscard]] ModelShape read_model(const std::string& name);
/// The same for a file of configs/clusters.
[[nodiscard]] ClusterModel read_cluster(const std::string& name);

}  // namespace moekv
