// dlopen and dlsym, with what to do where they find nothing.
#include "library.hpp"

#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdlib>
#include <utility>

#include "core/error.hpp"

namespace moekv::kernels {

Library::Library(std::string user, const char* name, const char* variable, const std::vector<std::string>& paths, std::string needed,
                 std::string instead)
    : user_(std::move(user)), needed_(std::move(needed)), instead_(std::move(instead)) {
  std::vector<std::string> all = paths;
  if (const char* chosen = std::getenv(variable)) all.insert(all.begin(), chosen);
  for (const std::string& path : all) {
    handle_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    path_ = path;
    if (handle_ != nullptr) return;
  }
  throw DeviceMissing(fmt::format("{}: no {} library (tried {}); set {} to the path of {}, or {}", user_, name, fmt::join(all, ", "), variable,
                                  paths.front(), instead_));
}

void* Library::symbol(const char* function) const {
  void* const found = dlsym(handle_, function);
  if (found == nullptr) throw DeviceMissing(fmt::format("{}: {} has no {}; {} is needed, or {}", user_, path_, function, needed_, instead_));
  return found;
}

}  // namespace moekv::kernels
