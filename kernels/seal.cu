// The kernel of sealing, equal to the host bit for bit. Compiled without fused multiply-add.
#include "cuda_launch.cuh"
#include "seal_block.hpp"

namespace moekv::kernels {
namespace {

struct Seal {
  using Work = SealLaunch;
  template <class Block>
  static __device__ void run(Block& block, const Work& work) { seal_block(block, work); }
};

}  // namespace

void launch_seal(const SealLaunch& work, cudaStream_t stream) { launch_blocks<Seal>(work.n_items, work.shared_bytes, work, stream); }

}  // namespace moekv::kernels
