// The kernel of attention for every format and shape.
#include "attend_block.hpp"
#include "cuda_launch.cuh"

namespace moekv::kernels {
namespace {

struct Attend {
  using Work = AttendLaunch;
  template <class Block>
  static __device__ void run(Block& block, const Work& work) { attend_block(block, work); }
};

}  // namespace

void launch_attend(const AttendLaunch& work, cudaStream_t stream) { launch_blocks<Attend>(work.n_items, work.shared_bytes, work, stream); }

}  // namespace moekv::kernels
