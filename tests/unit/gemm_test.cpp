// Products with weight matrices against sums in double, and their independence of what else is computed.
#include "device/gemm.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/rng.hpp"
#include "rules/codec/element.hpp"

namespace moekv {
namespace {

struct Sizes {
  std::uint32_t rows, columns, tokens;
};

std::vector<float> random(std::size_t n, std::uint64_t seed) {
  std::vector<float> out;
  for (std::size_t i = 0; i < n; ++i) out.push_back(2 * uniform_float(static_cast<std::uint32_t>(hash_words(seed, i))) - 1);
  return out;
}

std::vector<std::byte> stored(const std::vector<float>& values, ElementFormat type) {
  std::vector<std::byte> out(values.size() * element_bits(type) / 8);
  for (std::size_t i = 0; i < values.size(); ++i) store_raw(type, out.data(), static_cast<std::uint32_t>(i), values[i]);
  return out;
}

TEST(Gemm, IsTheSumOfProductsInEveryType) {
  for (const ElementFormat type : {ElementFormat::fp32, ElementFormat::bf16, ElementFormat::fp16}) {
    for (const Sizes& c : {Sizes{1, 1, 1}, {7, 33, 5}, {64, 128, 3}, {129, 31, 70}, {200, 96, 130}}) {
      const auto x = random(std::size_t{c.tokens} * c.columns, 2);
      const auto w = stored(random(std::size_t{c.rows} * c.columns, 1), type);
      std::vector<float> y(std::size_t{c.tokens} * c.rows, -7);
      multiply({w.data(), type, c.rows, c.columns}, x.data(), c.tokens, y.data());
      for (std::size_t t = 0; t < c.tokens; ++t) {
        for (std::size_t r = 0; r < c.rows; ++r) {
          double sum = 0;
          for (std::size_t i = 0; i < c.columns; ++i)
            sum += static_cast<double>(x[t * c.columns + i]) *
                   static_cast<double>(load_raw(type, w.data(), static_cast<std::uint32_t>(r * c.columns + i)));
          ASSERT_NEAR(y[t * c.rows + r], sum, 2e-5) << c.rows << "x" << c.columns << " token " << t << " row " << r;
        }
      }
    }
  }
}

TEST(Gemm, ATokenIsTheSameAloneAndAmongOthers) {
  const Sizes c{67, 53, 150};
  const auto x = random(std::size_t{c.tokens} * c.columns, 3);
  const auto w = stored(random(std::size_t{c.rows} * c.columns, 4), ElementFormat::fp32);
  const MatrixView matrix{w.data(), ElementFormat::fp32, c.rows, c.columns};
  std::vector<float> all(std::size_t{c.tokens} * c.rows), some(all.size());
  multiply(matrix, x.data(), c.tokens, all.data());
  for (const std::uint32_t step : {1U, 3U, 64U}) {
    for (std::uint32_t t = 0; t < c.tokens; t += step) {
      const std::uint32_t n = std::min(step, c.tokens - t);
      multiply(matrix, &x[std::size_t{t} * c.columns], n, &some[std::size_t{t} * c.rows]);
    }
    EXPECT_EQ(all, some) << step;
  }
}

}  // namespace
}  // namespace moekv
