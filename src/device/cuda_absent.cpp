// Stands in for the CUDA backend in a build without it, so that asking for it says what to do.
#include "core/error.hpp"
#include "device/backend.hpp"

namespace moekv {

std::unique_ptr<Backend> make_cuda_backend() {
  throw DeviceMissing(
      "backend 'cuda': this build has no CUDA; configure with -DMOEKV_CUDA=ON where a CUDA toolkit is installed, or use backend host or count");
}

}  // namespace moekv
