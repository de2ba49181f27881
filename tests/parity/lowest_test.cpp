// The smallest keys of several lists as a device finds them: those that a stable sort puts first.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "support/emulated_device.hpp"

namespace moekv::test {
namespace {

/// What a stable sort puts first, ascending.
std::vector<std::uint32_t> first_of(std::span<const std::uint64_t> keys, std::uint32_t n) {
  std::vector<std::uint32_t> order(keys.size());
  std::iota(order.begin(), order.end(), 0U);
  std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return keys[a] < keys[b]; });
  order.resize(n);
  std::sort(order.begin(), order.end());
  return order;
}

/// Keys that differ everywhere, in the lower word alone, in the upper one alone, hardly at all, or not.
std::uint64_t awkward_key(unsigned kind, std::mt19937& random) {
  const std::uint64_t low = random(), high = random();
  switch (kind) {
    case 0: return high << 32U | low;
    case 1: return 7ULL << 32U | low;
    case 2: return high << 32U;
    case 3: return high % 3 << 32U | low % 3;
    case 4: return low % 2 == 0 ? 0 : ~0ULL;
    default: return 5;
  }
}

class LowestDecisions : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    device_ = make_test_backend(GetParam(), 1);
    if (device_ == nullptr) GTEST_SKIP() << "no device for backend " << GetParam();
  }
  std::unique_ptr<Backend> device_;
};

TEST_P(LowestDecisions, AreThoseOfAStableSort) {
  std::mt19937 random(17);
  const std::vector<std::uint32_t> sizes{1, 2, 127, 129, 3000, 9000, 60000, 0};  // the longest does not fit shared memory
  for (unsigned kind = 0; kind < 6; ++kind) {
    std::vector<std::uint64_t> keys(3, 0);  // of no task
    std::vector<LowestTask> tasks;
    std::vector<std::uint32_t> expected;
    for (const std::uint32_t n : sizes) {
      const auto some = static_cast<std::uint32_t>(random() % (n + 1)), choice = static_cast<std::uint32_t>(random() % 4);
      const std::uint32_t n_lowest = choice == 0 ? n : choice == 1 && n > 0 ? n - 1 : some;  // one key may be left over
      tasks.push_back({static_cast<std::uint32_t>(keys.size()), n, n_lowest});
      for (std::uint32_t i = 0; i < n; ++i) keys.push_back(awkward_key(kind, random));
      const auto first = first_of(std::span(keys).subspan(tasks.back().first), n_lowest);
      expected.insert(expected.end(), first.begin(), first.end());
    }
    std::vector<std::uint32_t> lowest(expected.size() + 1, ~0U);
    ASSERT_TRUE(device_->find_lowest({keys, tasks, lowest.data()}));
    device_->sync();
    expected.push_back(~0U);
    ASSERT_EQ(lowest, expected) << "keys of kind " << kind;
  }
  const std::vector<std::uint64_t> few(100);
  const LowestTask task{0, 100, 1};
  EXPECT_FALSE(device_->find_lowest({few, {&task, 1}, nullptr})) << "a few keys are not worth a trip";
}

INSTANTIATE_TEST_SUITE_P(Backends, LowestDecisions, ::testing::Values("emulated", "cuda"), [](const auto& param) { return param.param; });

}  // namespace
}  // namespace moekv::test
