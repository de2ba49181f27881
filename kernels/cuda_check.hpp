// Turns a failed CUDA call into the exception of its kind, with CUDA's own text, the place and the host.
#pragma once

#include <cuda_runtime_api.h>

#include <source_location>

namespace moekv::kernels {

/// PointFailure for memory that is not there, DeviceMissing for a device that is not, else SystemError.
[[noreturn]] void fail(cudaError_t code, const std::source_location& where);

/// check(cudaCall(...)): throws unless the call succeeded.
inline void check(cudaError_t code, const std::source_location& where = std::source_location::current()) {
  if (code != cudaSuccess) fail(code, where);
}

}  // namespace moekv::kernels
