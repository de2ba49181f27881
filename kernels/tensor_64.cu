// Attention on tensor cores for 64 channels.
#include "tensor.cuh"

namespace moekv::kernels {

void launch_tensor_64(const AttendLaunch& work, cudaStream_t stream) { launch_tensor<Tensor64>(work, stream); }

}  // namespace moekv::kernels
