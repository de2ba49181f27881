// The kernel of the q, k, v generator, equal to the host bit for bit. Compiled without fused multiply-add.
#include "cuda_launch.cuh"
#include "generate_block.hpp"

namespace moekv::kernels {
namespace {

struct Generate {
  using Work = GenerateLaunch;
  template <class Block>
  static __device__ void run(Block& block, const Work& work) { generate_block(block, work); }
};

}  // namespace

void launch_generate(const GenerateLaunch& work, cudaStream_t stream) { launch_blocks<Generate>(work.n_items, work.shared_bytes, work, stream); }

}  // namespace moekv::kernels
