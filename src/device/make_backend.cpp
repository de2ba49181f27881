// Backends, and products that go with them, by name.
#include "core/error.hpp"
#include "device/backend.hpp"
#include "device/gemm.hpp"

namespace moekv {

std::unique_ptr<Backend> make_backend(std::string_view name, int n_threads) {
  if (name == "host") return make_host_backend(n_threads);
  if (name == "count") return make_count_backend();
  if (name == "cuda") return make_cuda_backend();
  throw UserError("backend", "unknown backend '" + std::string(name) + "'", suggest_name(name, {"host", "count", "cuda"}));
}

std::unique_ptr<Gemm> make_gemm(std::string_view backend) { return backend == "cuda" ? make_cuda_gemm() : make_host_gemm(); }

}  // namespace moekv
