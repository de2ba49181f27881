// The kernel of the gate, equal to the host bit for bit. Compiled without fused multiply-add.
#include "cuda_launch.cuh"
#include "gate_block.hpp"

namespace moekv::kernels {
namespace {

struct Gate {
  using Work = GateLaunch;
  template <class Block>
  static __device__ void run(Block& block, const Work& work) { gate_block(block, work); }
};

}  // namespace

void launch_gate(const GateLaunch& work, cudaStream_t stream) { launch_blocks<Gate>(work.n_items, work.shared_bytes, work, stream); }

}  // namespace moekv::kernels
