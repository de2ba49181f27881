// Attention on tensor cores for latent rows.
#include "tensor.cuh"

namespace moekv::kernels {

void launch_tensor_latent(const AttendLaunch& work, cudaStream_t stream) { launch_tensor<TensorLatent>(work, stream); }

}  // namespace moekv::kernels
