// Backends by name.
#include "core/error.hpp"
#include "device/backend.hpp"

namespace moekv {

std::unique_ptr<Backend> make_backend(std::string_view name, int n_threads) {
  if (name == "host") return make_host_backend(n_threads);
  if (name == "count") return make_count_backend();
  if (name == "cuda") return make_cuda_backend();
  throw UserError("backend", "unknown backend '" + std::string(name) + "'", suggest_name(name, {"host", "count", "cuda"}));
}

}  // namespace moekv
