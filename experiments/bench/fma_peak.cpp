// Twelve sums per thread: enough to hide the latency of two units, and with two constants in sixteen registers. They start differently: equal ones
// would be computed once.
#include "fma_peak.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fma_peak.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace moekv::bench::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

std::size_t fma_rounds(std::uint32_t n, float* sink) {
  const hn::ScalableTag<float> d;
  const auto factor = hn::Set(d, 0.999F);
  const auto term = hn::Set(d, sink[0]);
  const auto start = [&](std::size_t chain) { return hn::Set(d, sink[chain]); };
  auto a = start(0), b = start(1), c = start(2), e = start(3), f = start(4), g = start(5);
  auto h = start(6), i = start(7), j = start(8), k = start(9), l = start(10), m = start(11);
  for (std::uint32_t t = 0; t < n; ++t) {
    a = hn::MulAdd(a, factor, term), b = hn::MulAdd(b, factor, term), c = hn::MulAdd(c, factor, term), e = hn::MulAdd(e, factor, term);
    f = hn::MulAdd(f, factor, term), g = hn::MulAdd(g, factor, term), h = hn::MulAdd(h, factor, term), i = hn::MulAdd(i, factor, term);
    j = hn::MulAdd(j, factor, term), k = hn::MulAdd(k, factor, term), l = hn::MulAdd(l, factor, term), m = hn::MulAdd(m, factor, term);
  }
  const auto sum =
      hn::Add(hn::Add(hn::Add(a, b), hn::Add(c, e)), hn::Add(hn::Add(hn::Add(f, g), hn::Add(h, i)), hn::Add(hn::Add(j, k), hn::Add(l, m))));
  sink[0] = hn::GetLane(sum) > 1e30F ? 1.0F : 0.5F;
  return std::size_t{n} * 12 * hn::Lanes(d);
}

}  // namespace moekv::bench::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moekv::bench {

HWY_EXPORT(fma_rounds);

std::size_t do_fmas(std::uint32_t n, int n_threads) {
  std::size_t done = 0;
#pragma omp parallel for schedule(static) num_threads(n_threads) reduction(+ : done)
  for (int t = 0; t < n_threads; ++t) {
    float sink[12];
    for (int i = 0; i < 12; ++i) sink[i] = 0.25F + 0.01F * static_cast<float>(i + t);
    done += HWY_DYNAMIC_DISPATCH(fma_rounds)(n, sink);
  }
  return done;
}

}  // namespace moekv::bench
#endif
