// The files of configs/models and configs/clusters: where they lie and what they are called.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace moekv {

/// Directories that may hold models/, clusters/ and traces/, nearest first: around `directory` (of the file that asks), $MOEKV_CONFIGS, above
/// the executable (build tree and installed tree), the source tree.
[[nodiscard]] std::vector<std::string> config_directories(const std::string& directory = {});

/// Path of `name` among the files of `kind` ("models", "clusters"); a name with '/' or ".yaml" is a path that starts at `directory`.
/// Empty when there is none.
[[nodiscard]] std::string find_library_file(std::string_view kind, const std::string& name, const std::string& directory);

/// Names of all files of `kind`, sorted.
[[nodiscard]] std::vector<std::string> library_names(std::string_view kind, const std::string& directory = {});

}  // namespace moekv
