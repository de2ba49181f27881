// Products with weight matrices on the host: a tile of a few tokens and rows at a time, compiled once per instruction set.
#include "device/gemm.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "device/gemm.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>

#include "rules/codec/element.hpp"

HWY_BEFORE_NAMESPACE();
namespace moekv::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
constexpr D d;

template <ElementFormat format>
HWY_INLINE V load_row(const std::byte* row, std::size_t i) {
  if constexpr (format == ElementFormat::fp32) return hn::LoadU(d, reinterpret_cast<const float*>(row) + i);
  if constexpr (format == ElementFormat::bf16) {
    const hn::Rebind<hwy::bfloat16_t, D> half;
    return hn::PromoteTo(d, hn::LoadU(half, reinterpret_cast<const hwy::bfloat16_t*>(row) + i));
  }
  if constexpr (format == ElementFormat::fp16) {
    const hn::Rebind<hwy::float16_t, D> half;
    return hn::PromoteTo(d, hn::LoadU(half, reinterpret_cast<const hwy::float16_t*>(row) + i));
  }
}

/// T tokens and R rows: each pair has one vector of sums, added up at the end, then what is left of a vector.
template <ElementFormat format, std::uint32_t T, std::uint32_t R>
void tile(const GemmBlock& b, std::uint32_t t, std::uint32_t r) {
  const std::size_t columns = b.w.columns, row_bytes = columns * element_bits(format) / 8;
  const std::byte* w = b.w.data + r * row_bytes;
  const float* x = b.x + t * columns;
  V sum[T][R];
  for (auto& row : sum) {
    for (V& s : row) s = hn::Zero(d);
  }
  std::size_t c = 0;
  for (; c + hn::Lanes(d) <= columns; c += hn::Lanes(d)) {
    V weight[R];
    for (std::uint32_t j = 0; j < R; ++j) weight[j] = load_row<format>(w + j * row_bytes, c);
    for (std::uint32_t i = 0; i < T; ++i) {
      const V value = hn::LoadU(d, x + i * columns + c);
      for (std::uint32_t j = 0; j < R; ++j) sum[i][j] = hn::MulAdd(value, weight[j], sum[i][j]);
    }
  }
  for (std::uint32_t i = 0; i < T; ++i) {
    for (std::uint32_t j = 0; j < R; ++j) {
      float total = hn::GetLane(hn::SumOfLanes(d, sum[i][j]));
      for (std::size_t rest = c; rest < columns; ++rest)
        total += x[i * columns + rest] * load_raw(format, w + j * row_bytes, static_cast<std::uint32_t>(rest));
      b.y[std::size_t{t + i} * b.w.rows + r + j] = total;
    }
  }
}

template <ElementFormat format, std::uint32_t T>
void tokens(const GemmBlock& b, std::uint32_t t) {
  std::uint32_t r = b.r0;
  for (; r + 2 <= b.r1; r += 2) tile<format, T, 2>(b, t, r);
  for (; r < b.r1; ++r) tile<format, T, 1>(b, t, r);
}

template <ElementFormat format>
void block_of(const GemmBlock& b) {
  std::uint32_t t = b.t0;
  for (; t + 4 <= b.t1; t += 4) tokens<format, 4>(b, t);
  for (; t < b.t1; ++t) tokens<format, 1>(b, t);
}

}  // namespace

void multiply_block(const GemmBlock& b) {
  switch (b.w.type) {
    case ElementFormat::bf16:
      return block_of<ElementFormat::bf16>(b);
    case ElementFormat::fp16:
      return block_of<ElementFormat::fp16>(b);
    default:
      return block_of<ElementFormat::fp32>(b);
  }
}

}  // namespace moekv::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moekv {

HWY_EXPORT(multiply_block);

void multiply(const MatrixView& w, const float* x, std::uint32_t n, float* y) {
  constexpr std::uint32_t token_block = 64, row_block = 64;
  constexpr std::uint64_t worth_threads = 1U << 18;  // products
  const std::uint32_t token_blocks = (n + token_block - 1) / token_block, row_blocks = (w.rows + row_block - 1) / row_block;
  const std::int64_t blocks = std::int64_t{token_blocks} * row_blocks;
#pragma omp parallel for schedule(static) if (std::uint64_t{n} * w.rows * w.columns > worth_threads)
  for (std::int64_t i = 0; i < blocks; ++i) {
    const auto t = static_cast<std::uint32_t>(i / row_blocks) * token_block, r = static_cast<std::uint32_t>(i % row_blocks) * row_block;
    HWY_DYNAMIC_DISPATCH(multiply_block)({w, x, y, t, std::min(n, t + token_block), r, std::min(w.rows, r + row_block)});
  }
}

namespace {

class HostGemm final : public Gemm {
 public:
  void multiply(const MatrixView& w, const float* x, std::uint32_t n, float* y) override { moekv::multiply(w, x, n, y); }
};

}  // namespace

std::unique_ptr<Gemm> make_host_gemm() { return std::make_unique<HostGemm>(); }

}  // namespace moekv
#endif
