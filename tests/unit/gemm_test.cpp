// Products with weight matrices against sums in double, and their independence of what else is computed; those of a device on a library that counts
// its calls, and the calls of cuBLAS on one that stands in for it.
#include "device/gemm.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <deque>
#include <vector>

#include "core/error.hpp"
#include "core/rng.hpp"
#include "device_gemm.hpp"
#include "rules/codec/element.hpp"
#include "support/emulated_device.hpp"

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

/// Column by column, as the contract says; runs when it is called, which only a device that has finished its copies survives.
class PlainBlas final : public kernels::Blas {
 public:
  explicit PlainBlas(kernels::Device& device, std::vector<std::uint32_t>& tokens) : device_(device), tokens_(tokens) {}
  void multiply_transposed(std::uint32_t m, std::uint32_t n, std::uint32_t k, const float* a, const float* b, float* c) override {
    device_.synchronize();
    tokens_.push_back(n);
    for (std::uint32_t i = 0; i < m; ++i) {
      for (std::uint32_t j = 0; j < n; ++j) {
        double sum = 0;
        for (std::uint32_t l = 0; l < k; ++l) sum += static_cast<double>(a[l + std::size_t{i} * k]) * static_cast<double>(b[l + std::size_t{j} * k]);
        c[i + std::size_t{j} * m] = static_cast<float>(sum);
      }
    }
  }

 private:
  kernels::Device& device_;
  std::vector<std::uint32_t>& tokens_;
};

TEST(DeviceGemm, IsTheHostsAndKeepsItsWeights) {
  auto device = std::make_unique<test::EmulatedDevice>();
  std::vector<std::uint32_t> tokens;
  auto blas = std::make_unique<PlainBlas>(*device, tokens);
  kernels::DeviceGemm gemm(std::move(device), std::move(blas));
  std::deque<std::vector<std::byte>> matrices;  // all live as long as the device's copies
  for (const ElementFormat type : {ElementFormat::fp32, ElementFormat::bf16, ElementFormat::fp16}) {
    const std::vector<std::byte> right = stored(random(std::size_t{37} * 29, 5), type);
    std::vector<std::byte>& w = matrices.emplace_back(right);  // assigned to, never moved
    const MatrixView matrix{w.data(), type, 37, 29};
    for (const std::uint32_t n : {1U, 64U, 70U, 200U}) {
      const auto x = random(std::size_t{n} * 29, n);
      std::vector<float> expected(std::size_t{n} * 37), y(expected.size(), -7);
      multiply(matrix, x.data(), n, expected.data());
      if (n == 70) std::fill(w.begin(), w.end(), std::byte{0x7F});  // the device has its own by now
      gemm.multiply(matrix, x.data(), n, y.data());
      w = right;
      for (std::size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], expected[i], 2e-5) << n << " tokens, value " << i;
    }
  }
  EXPECT_EQ(tokens.size(), 3 * (1 + 1 + 2 + 4));
  for (const std::uint32_t n : tokens) EXPECT_EQ(n, kernels::DeviceGemm::tile);
  gemm.multiply({}, nullptr, 0, nullptr);
}

#ifdef MOEKV_FAKE_CUBLAS
TEST(Cublas, IsCalledAsItsHeaderSays) {
  EXPECT_EQ(setenv("MOEKV_CUBLAS_LIB", MOEKV_FAKE_CUBLAS, 1), 0);
  const auto blas = kernels::make_cublas(nullptr);
  constexpr std::uint32_t m = 5, n = 3, k = 7;
  const auto a = random(std::size_t{m} * k, 1), b = random(std::size_t{n} * k, 2);
  std::vector<float> c(std::size_t{m} * n, -7);
  blas->multiply_transposed(m, n, k, a.data(), b.data(), c.data());
  for (std::uint32_t i = 0; i < m; ++i) {
    for (std::uint32_t j = 0; j < n; ++j) {
      float sum = 0;
      for (std::uint32_t l = 0; l < k; ++l) sum += a[i * k + l] * b[j * k + l];
      EXPECT_NEAR(c[i + j * m], sum, 1e-5) << i << " " << j;
    }
  }
}
#endif

TEST(MakeGemm, GoesWithTheBackend) {
  const auto w = stored({2, 3}, ElementFormat::fp32);
  const float x[2] = {5, 7};
  for (const char* backend : {"host", "count"}) {
    float y = 0;
    make_gemm(backend)->multiply({w.data(), ElementFormat::fp32, 1, 2}, x, 1, &y);
    EXPECT_EQ(y, 31.0F);
  }
  if (test::make_test_backend("cuda", 1) == nullptr) {
    EXPECT_THROW((void)make_gemm("cuda"), DeviceMissing);
  }
}

}  // namespace
}  // namespace moekv
