// Attention on tensor cores for 128 channels.
#include "tensor.cuh"

namespace moekv::kernels {

void launch_tensor_128(const AttendLaunch& work, cudaStream_t stream) { launch_tensor<Tensor128>(work, stream); }

}  // namespace moekv::kernels
