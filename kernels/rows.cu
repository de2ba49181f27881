// Kernels whose results must equal the host's bit for bit: entries, bounds, scores and choices by them, merging, masses. Compiled without fused
// multiply-add.
#include <type_traits>
#include <variant>

#include "append_block.hpp"
#include "cuda_launch.cuh"
#include "mass_block.hpp"
#include "merge_block.hpp"
#include "score_block.hpp"
#include "select_block.hpp"

namespace moekv::kernels {
namespace {

struct Append {
  using Work = AppendLaunch;
  static __device__ void run(CudaBlock& block, const Work& work) { append_block(block, work); }
};
struct Widen {
  using Work = WidenLaunch;
  static __device__ void run(CudaBlock& block, const Work& work) { widen_block(block, work); }
};
struct Merge {
  using Work = MergeLaunch;
  static __device__ void run(CudaBlock& block, const Work& work) { merge_block(block, work); }
};
struct Select {
  using Work = SelectLaunch;
  static __device__ void run(CudaBlock& block, const Work& work) { select_block(block, work); }
};
struct Mass {
  using Work = MassLaunch;
  static __device__ void run(CudaBlock& block, const Work& work) { mass_block(block, work); }
};
template <class Rule>
struct Score {
  struct Work : ScoreLaunch {
    Rule own;
  };
  static __device__ void run(CudaBlock& block, const Work& work) { score_block(block, work, work.own); }
};

}  // namespace

void launch_append(const AppendLaunch& work, cudaStream_t stream) { launch_blocks<Append>(work.n_items, 0, work, stream); }
void launch_widen(const WidenLaunch& work, cudaStream_t stream) { launch_blocks<Widen>(work.n_items, 0, work, stream); }
void launch_merge(const MergeLaunch& work, cudaStream_t stream) { launch_blocks<Merge>(work.n_items, 0, work, stream); }
void launch_mass(const MassLaunch& work, cudaStream_t stream) { launch_blocks<Mass>(work.n_items, 0, work, stream); }
void launch_select(const SelectLaunch& work, cudaStream_t stream) { launch_blocks<Select>(work.n_items, work.shared_bytes, work, stream); }
void launch_score(const ScoreLaunch& work, cudaStream_t stream) {
  std::visit([&](const auto& rule) {
    using Rule = std::decay_t<decltype(rule)>;
    if constexpr (select::needs_bounds<Rule>) launch_blocks<Score<Rule>>(work.n_items, work.shared_bytes, {work, rule}, stream);
  }, work.rule);
}

cudaError_t find_image() {
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes, run_blocks<Append>);
}

}  // namespace moekv::kernels
