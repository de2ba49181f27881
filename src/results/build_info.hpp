// What this program was built from and with; the git state is looked up at every build.
#pragma once

#include <string>
#include <string_view>

namespace moekv {

struct BuildInfo {
  std::string_view version;
  std::string_view git_commit;  // "unknown" outside a repository
  int git_dirty = -1;           // 1 = tracked files differ from the commit, -1 = unknown
  std::string_view build_type;
  std::string_view compiler;
  std::string_view cuda_architectures;  // empty: built without CUDA
};
[[nodiscard]] const BuildInfo& build_info();
/// Version and build in one line.
[[nodiscard]] std::string build_text();

}  // namespace moekv
