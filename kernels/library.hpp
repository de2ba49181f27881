// Library: a shared library that is opened at run time, so that a program starts without it.
#pragma once

#include <string>
#include <vector>

namespace moekv::kernels {

/// Stays open to the end of the program.
class Library {
 public:
  /// `user` asks for the library ("transport 'nccl'"), `name` is its own ("NCCL"), `variable` of the environment may hold its path, `paths` come
  /// next, in order; `needed` is what to have, `instead` what to do without. Throws DeviceMissing with where it was looked for.
  Library(std::string user, const char* name, const char* variable, const std::vector<std::string>& paths, std::string needed, std::string instead);

  template <class Function>
  void find(const char* function, Function& to) const {
    to = reinterpret_cast<Function>(symbol(function));
  }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  /// Throws DeviceMissing.
  [[nodiscard]] void* symbol(const char* function) const;

  std::string user_, path_, needed_, instead_;
  void* handle_ = nullptr;
};

}  // namespace moekv::kernels
