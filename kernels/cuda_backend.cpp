// make_cuda_backend, of a build with CUDA.
#include "cuda_device.hpp"
#include "device_backend.hpp"

namespace moekv {

std::unique_ptr<Backend> make_cuda_backend() {
  return std::make_unique<kernels::DeviceBackend>(std::make_unique<kernels::CudaDevice>(kernels::choose_device()));
}

}  // namespace moekv
