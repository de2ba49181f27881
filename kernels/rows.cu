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
  template <class Block>
  static __device__ void run(Block& block, const Work& work) { append_block(block, work); }
};
struct Widen {
  using Work = WidenLaunch;
  template <class Block>
  static __device__ void run(Block& block, const Work& work) { widen_block(block, work); }
};
struct Merge {
  using Work = MergeLaunch;
  template <class Block>
  static __device__ void run(Block& block, const Work& work) { merge_block(block, work); }
};
template <unsigned n>
struct Select {
  using Work = SelectLaunch;
  static constexpr unsigned threads = n;
  template <class Block>
  static __device__ void run(Block& block, const Work& work) { select_block(block, work); }
};
struct Mass {
  using Work = MassLaunch;
  template <class Block>
  static __device__ void run(Block& block, const Work& work) { mass_block(block, work); }
};
template <class Rule>
struct Score {
  struct Work : ScoreLaunch {
    Rule own;
  };
  template <class Block>
  static __device__ void run(Block& block, const Work& work) { score_block(block, work, work.own); }
};

}  // namespace

void launch_append(const AppendLaunch& work, cudaStream_t stream) { launch_blocks<Append>(work.n_items, 0, work, stream); }
void launch_widen(const WidenLaunch& work, cudaStream_t stream) { launch_blocks<Widen>(work.n_items, 0, work, stream); }
void launch_merge(const MergeLaunch& work, cudaStream_t stream) { launch_blocks<Merge>(work.n_items, 0, work, stream); }
void launch_mass(const MassLaunch& work, cudaStream_t stream) { launch_blocks<Mass>(work.n_items, 0, work, stream); }
/// Few choices are made by many threads each: what is chosen does not depend on that.
void launch_select(const SelectLaunch& work, cudaStream_t stream) {
  constexpr std::uint32_t few = 256;
  if (work.n_items <= few) return launch_blocks<Select<select_threads>>(work.n_items, work.shared_bytes, work, stream);
  launch_blocks<Select<block_threads>>(work.n_items, work.shared_bytes, work, stream);
}
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
