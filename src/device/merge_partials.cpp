// Row by row: a thread merges the parts of its rows and divides by their sum.
#include "device/merge_partials.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "core/threads.hpp"

namespace moekv {
namespace {

constexpr std::size_t worth_threads = 65536;  // values; some 20 us of one core

}  // namespace

void merge_partials(const MergeBatch& batch, int n_threads) {
  MOEKV_EXPECT(!batch.offsets.empty());
  const auto rows = static_cast<std::int64_t>(batch.offsets.size()) - 1;
#pragma omp parallel for schedule(static) num_threads(thread_count(n_threads)) if (batch.parts.size() * batch.d_v > worth_threads)
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto row = static_cast<std::size_t>(r);
    SoftmaxState state;
    float* o = batch.o + row * batch.d_v;
    std::fill_n(o, batch.d_v, 0.0F);
    for (const Partial& part : batch.parts.subspan(batch.offsets[row], batch.offsets[row + 1] - batch.offsets[row])) {
      merge_part(state, o, part.state, part.o, batch.d_v);
    }
    if (batch.sink != nullptr) merge_sink(state, o, batch.sink[row], batch.d_v);
    batch.lse[row] = state.l > 0 ? state.m + log_fixed(state.l) : -std::numeric_limits<float>::infinity();
    for (std::uint32_t c = 0; state.l > 0 && c < batch.d_v; ++c) o[c] /= state.l;
  }
}

}  // namespace moekv
