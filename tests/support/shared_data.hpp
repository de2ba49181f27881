// Where large real recordings lie that are not in the repository; tests that need one skip with its name where it is absent.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace moekv {

/// Path of a file of the shared data folder: $MOEKV_SHARED, or the folder beside the repository.
inline std::string shared_file(const std::string& name) {
  const char* folder = std::getenv("MOEKV_SHARED");
  return (std::filesystem::path(folder != nullptr ? folder : MOEKV_SOURCE_DIR "/../shared") / name).string();
}

}  // namespace moekv
