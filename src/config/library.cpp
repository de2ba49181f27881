// Finds the files of configs/ from a build tree, an installed tree or wherever a configuration lies.
#include "config/library.hpp"

#include <algorithm>
#include <cstdlib>
#include <filesystem>

namespace moekv {

namespace fs = std::filesystem;

std::vector<std::string> config_directories(const std::string& directory) {
  std::vector<std::string> found;
  const auto add = [&](const fs::path& path) {
    std::error_code ec;
    if (!fs::is_directory(path / "models", ec) && !fs::is_directory(path / "clusters", ec)) return;
    const std::string text = fs::weakly_canonical(path, ec).string();
    if (std::find(found.begin(), found.end(), text) == found.end()) found.push_back(text);
  };
  const fs::path base = directory.empty() ? fs::path(".") : fs::path(directory);
  add(base);
  add(base / "..");
  add(base / "configs");
  if (const char* set = std::getenv("MOEKV_CONFIGS"); set != nullptr && *set != '\0') add(set);
  std::error_code ec;
  for (fs::path above = fs::read_symlink("/proc/self/exe", ec).parent_path(); !above.empty(); above = above.parent_path()) {
    add(above / "configs");
    add(above / "share" / "moekv" / "configs");
    if (above == above.root_path()) break;
  }
  add(MOEKV_CONFIGS_DIR);
  return found;
}

std::string find_library_file(std::string_view kind, const std::string& name, const std::string& directory) {
  std::error_code ec;
  if (name.find('/') != std::string::npos || name.ends_with(".yaml")) {
    const fs::path path = fs::path(directory) / name;
    return fs::is_regular_file(path, ec) ? path.lexically_normal().string() : std::string();
  }
  for (const std::string& base : config_directories(directory)) {
    const fs::path path = fs::path(base) / kind / (name + ".yaml");
    if (fs::is_regular_file(path, ec)) return path.string();
  }
  return {};
}

std::vector<std::string> library_names(std::string_view kind, const std::string& directory) {
  std::vector<std::string> names;
  std::error_code ec;
  for (const std::string& base : config_directories(directory)) {
    for (const auto& entry : fs::directory_iterator(fs::path(base) / kind, ec)) {
      if (entry.path().extension() == ".yaml") names.push_back(entry.path().stem().string());
    }
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

}  // namespace moekv
