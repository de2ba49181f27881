// Codebooks of product quantisation: few values are kept, many are met by means, and the search of whole pages is that of single rows.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "device/fit_codebook.hpp"
#include "device/fit_table.hpp"
#include "rules/codec/pq.hpp"

namespace moekv {
namespace {

struct Book {
  PlaneFormat format;
  std::uint32_t d;
  std::vector<std::byte> table;

  Book(const std::vector<float>& x, std::uint32_t channels, std::uint32_t m)
      : format(codec::Pq{.subvectors = m}.plane(Role::k, channels)), d(channels), table(table_bytes(format, d)) {
    fit_table(format, d, {x.data(), static_cast<std::uint32_t>(x.size() / d), nullptr, 0}, table.data());
  }
  [[nodiscard]] MapView map() const { return map_view(format, d, table.data()); }
  [[nodiscard]] std::vector<float> numbers(std::vector<float> x) const {
    std::vector<float> z(x.size() / d * map().width);
    for (std::size_t t = 0; t < x.size() / d; ++t) map_forward(map(), &x[t * d], &z[t * map().width]);
    return z;
  }
  [[nodiscard]] std::vector<float> through(const std::vector<float>& x) const {
    std::vector<float> z = numbers(x), back(x.size());
    for (std::size_t t = 0; t < x.size() / d; ++t) map_back(map(), &z[t * map().width], 1.0F, &back[t * d], d);
    return back;
  }
};

std::vector<float> normal_rows(std::size_t n, unsigned seed, float spread = 1.0F) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, spread);
  std::vector<float> x(n);
  std::generate(x.begin(), x.end(), [&] { return normal(random); });
  return x;
}

TEST(Codebook, KeepsAsManyValuesAsItHasCentroids) {
  for (const std::uint32_t rows : {1U, 2U, 255U, 256U}) {
    std::vector<float> x;
    for (std::uint32_t t = 0; t < 3 * rows; ++t) {  // each row three times
      for (std::uint32_t c = 0; c < 5; ++c) x.push_back(static_cast<float>((t % rows * 37 + c * c) % 256) - 100.0F);
    }
    for (const std::uint32_t m : {1U, 2U, 5U}) EXPECT_EQ(Book(x, 5, m).through(x), x) << rows << " rows, " << m << " sub-vectors";
  }
}

TEST(Codebook, CentroidsAreTheMeansOfTheirRows) {  // a lattice of 256 points, and around each two rows
  std::vector<float> x, expected;
  for (int i = 0; i < 256; ++i) {
    const int row = i / 16, column = i % 16;
    const float a = 64.0F * static_cast<float>(row - 8), b = 64.0F * static_cast<float>(column - 8);
    x.insert(x.end(), {a - 1, b, a + 1, b});
    expected.insert(expected.end(), {a, b, a, b});
  }
  const std::vector<float> back = Book(x, 2, 1).through(x);
  std::size_t equal = 0;
  for (std::size_t i = 0; i < x.size(); ++i) equal += back[i] == expected[i] ? 1U : 0U;
  EXPECT_GT(equal, x.size() * 9 / 10) << "k-means ends in a local optimum, but not in such a poor one";
}

TEST(Codebook, FitsTheSameBytesEveryTimeAndOfManyRowsTakesSome) {
  const auto x = normal_rows(10000 * 4, 3);
  const Book book(x, 4, 2), again(x, 4, 2);
  EXPECT_EQ(book.table, again.table);
  std::vector<float> some;
  for (std::size_t t = 0; t < 4096; ++t) {
    const auto* row = &x[t * 10000 / 4096 * 4];
    some.insert(some.end(), row, row + 4);
  }
  EXPECT_EQ(book.table, Book(some, 4, 2).table);
}

TEST(Codebook, PagesFindTheCentroidsOfTheirRows) {
  for (const auto& [d, m] : {std::pair{64U, 32U}, {45U, 32U}, {77U, 3U}, {7U, 7U}}) {
    auto x = normal_rows(std::size_t{600} * d, d, 30.0F);
    const Book book(x, d, m);
    auto page = normal_rows(std::size_t{64} * d, d + 1, 40.0F);
    page[3] = std::numeric_limits<float>::infinity();
    page[5] = std::numeric_limits<float>::quiet_NaN();
    std::vector<float> z(std::size_t{64} * m);
    find_centroids(book.map(), page.data(), 64, z.data());
    EXPECT_EQ(z, book.numbers(page));
    EXPECT_GT(*std::max_element(z.begin(), z.end()), 100.0F);
  }
}

}  // namespace
}  // namespace moekv
