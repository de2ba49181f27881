// What a device decides or sums up for the host: choices of pages and experts are the host's bit for bit, attention masses those of double precision.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "select_block.hpp"
#include "support/emulated_device.hpp"
#include "support/page_world.hpp"

namespace moekv::test {
namespace {

constexpr float inf = std::numeric_limits<float>::infinity();

/// Pages that are read of `scores`, by a plain sort.
std::vector<std::uint32_t> best_pages(const std::vector<float>& scores, const select::Pick& pick, std::uint32_t newest) {
  std::vector<std::uint32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0U);
  if (pick.newest && !order.empty()) order.erase(order.begin() + newest);
  std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    const float x = std::isnan(scores[a]) ? -inf : scores[a], y = std::isnan(scores[b]) ? -inf : scores[b];
    return x > y;
  });
  order.resize(std::min<std::size_t>(pick.best, order.size()));
  if (pick.newest && !scores.empty()) order.push_back(newest);
  std::sort(order.begin(), order.end());
  return order;
}

/// Scores with many ties, both zeros, infinities and NaN.
std::vector<float> awkward_scores(std::uint32_t n, std::mt19937& random) {
  std::vector<float> scores(n);
  const auto kind = static_cast<std::uint32_t>(random() % 4);
  for (float& s : scores) {
    const auto r = static_cast<std::uint32_t>(random() % 32);
    s = kind == 0 ? std::normal_distribution<float>()(random) : static_cast<float>(static_cast<int>(random() % 5) - 2);
    if (kind == 2) s = 1.0F;
    if (kind == 3 && r < 6) s = r == 0 ? NAN : r == 1 ? inf : r == 2 ? -inf : r == 3 ? -0.0F : r == 4 ? 0.0F : 1e-42F;
  }
  return scores;
}

TEST(SelectBlock, TakesWhatAPlainSortTakes) {
  std::mt19937 random(3);
  EmulatedDevice device;
  for (const std::uint32_t n : {1U, 2U, 31U, 128U, 129U, 500U, 4000U}) {
    for (int repeat = 0; repeat < 12; ++repeat) {
      const std::vector<float> scores = awkward_scores(n, random);
      select::Pick pick{static_cast<std::uint32_t>(random() % (n + 2)), random() % 2 == 0};
      if (repeat == 0) pick = {0, true};
      const auto newest = static_cast<std::uint32_t>(random() % n);
      const std::vector<std::uint32_t> expected = best_pages(scores, pick, newest);
      ASSERT_EQ(expected.size(), select::n_chosen(pick, n));
      for (const bool shared : {true, false}) {
        kernels::SelectItem item{1, n, static_cast<std::uint32_t>(expected.size()) - (pick.newest ? 1 : 0), pick.newest ? newest : ~0U, 2};
        std::vector<float> padded(1, NAN);
        padded.insert(padded.end(), scores.begin(), scores.end());
        std::vector<std::uint32_t> chosen(expected.size() + 4, ~0U);
        kernels::SelectLaunch work{&item, 1, padded.data(), chosen.data(), shared ? n : n - 1, kernels::select_shared_bytes(shared ? n : 0)};
        device.launch(work);
        device.synchronize();
        ASSERT_EQ(std::vector<std::uint32_t>(chosen.begin() + 2, chosen.end() - 2), expected) << n << " pages, best " << pick.best;
        ASSERT_EQ(chosen[1], ~0U);
        ASSERT_EQ(chosen[expected.size() + 2], ~0U);
      }
    }
  }
}

class Decisions : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    device_ = make_test_backend(GetParam(), 1);
    if (device_ == nullptr) GTEST_SKIP() << "no device for backend " << GetParam();
  }
  std::unique_ptr<Backend> device_;
};

TEST_P(Decisions, PagesOfSeveralQueriesAreTheHosts) {
  std::mt19937 random(7);
  const auto host = make_host_backend(1);
  BlockFormat f{{ElementFormat::bf16}, {ElementFormat::bf16}, 8, 1, 16, 16};
  f.bounds = true;
  const PoolId pool = host->create_pool(f, 300);
  device_->create_pool(f, 300);
  std::vector<std::byte> rows(std::size_t{300} * 32);
  std::vector<AppendOp> ops;
  for (std::uint32_t i = 0; i < 300; ++i) {
    for (std::uint32_t c = 0; c < 16; ++c) store_raw(ElementFormat::bf16, &rows[i * 32], c, static_cast<float>(random() % 3));  // many equal scores
    ops.push_back({{pool, i}, 0, &rows[i * 32], &rows[i * 32], true});
  }
  std::vector<BlockRef> pages;
  for (std::uint32_t i = 0; i < 300; ++i) pages.push_back({pool, static_cast<std::uint32_t>(random() % 300)});
  select::Quest quest;
  for (const std::uint32_t budget : {1U, 9U, 64U}) {
    quest.budget_pages = budget;
    quest.variant = budget == 9 ? select::QuestVariant::accuracy : select::QuestVariant::kernel;
    const SelectRule rule = quest;
    const ScoreTask tasks[] = {{0, 120, 1, 0, 1, 2, 119}, {120, 1, 0, 0, 1, 2, 0}, {121, 179, 0, 1, 1, 2, 4}};
    std::uint32_t n = 0;
    for (const ScoreTask& task : tasks) n += select::n_chosen(quest.pick(), task.n_pages);
    std::vector<std::uint32_t> chosen[2];
    for (Backend* b : {host.get(), device_.get()}) {
      b->append(ops);
      std::vector<std::uint32_t>& mine = chosen[b == host.get() ? 0 : 1];
      mine.assign(n + 1, ~0U);
      b->score_pages({tasks, pages, rows.data(), ElementFormat::bf16, 3, 16, &rule, nullptr, mine.data()});
      b->sync();
    }
    EXPECT_EQ(chosen[1], chosen[0]);
    EXPECT_EQ(chosen[0].back(), ~0U);
    EXPECT_LT(chosen[0][n - 1], 179U);
  }
}

/// The mass of a slot in double precision.
double exact_mass(const PageWorld& world, const std::vector<std::uint32_t>& tasks, Reducer how, std::uint64_t column, const std::vector<float>& lse) {
  double value = 0;
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    double sum = 0, most = 0;
    for (std::uint32_t h = 0; h < world.rows_per_task(); ++h) {
      const double a = std::exp(world.oracle(tasks[i], h).logits[column] - static_cast<double>(lse[i * world.rows_per_task() + h]));
      sum += a;
      most = std::max(most, a);
    }
    value += how == Reducer::max ? most : how == Reducer::sum ? sum : sum / world.rows_per_task();
  }
  return value;
}

TEST_P(Decisions, MassesOfKeptLogitsAddUpOverQueries) {
  Geometry g;
  g.group = 3;
  PageWorld world(*device_, g, 12, 5);
  const std::vector<std::uint32_t> read{3, 7, 1, 9};
  world.add_task(5, 0.5F);
  world.add_task_on(read, 13);
  world.add_task_on(read, 13);
  std::vector<std::uint32_t> which{1, 2};
  const AttendOutput kept = world.attend(*device_, true);
  std::vector<float> lse;
  std::vector<MassTask> tasks;
  for (const std::uint32_t t : which) {
    tasks.push_back({world.tasks()[t].logits, world.task_slots(t), static_cast<std::uint32_t>(lse.size()), world.rows_per_task()});
    for (std::uint32_t h = 0; h < world.rows_per_task(); ++h) {
      const std::uint32_t row = world.tasks()[t].out + h;
      lse.push_back(kept.m[row] + std::log(kept.l[row]));
    }
  }
  // Pages 7 and 9; the first one was read by both queries, the second by one.
  const std::vector<MassRead> reads{{0, 13, 13}, {1, 13, 13}, {1, 39, 13}};
  const std::vector<MassPage> pages{{0, 2}, {2, 1}};
  for (const Reducer how : {Reducer::mean, Reducer::sum, Reducer::max}) {
    std::vector<SlotMass> mass(pages.size() * g.page_slots, {NAN, 77});
    device_->weigh({tasks, reads, pages, lse, how, g.page_slots, kept.logits.data(), mass.data()});
    device_->sync();
    for (std::uint32_t slot = 0; slot < g.page_slots; ++slot) {
      const bool used = slot < 13;
      EXPECT_EQ(mass[slot].seen, used ? 2U : 0U);
      EXPECT_EQ(mass[g.page_slots + slot].seen, used ? 1U : 0U);
      const double first = used ? exact_mass(world, which, how, 13 + slot, lse) : 0;
      const double second = used ? exact_mass(world, {which[1]}, how, 39 + slot, {lse.begin() + 6, lse.end()}) : 0;
      EXPECT_NEAR(mass[slot].value, first, 1e-4 * first);
      EXPECT_NEAR(mass[g.page_slots + slot].value, second, 1e-4 * second);
      const SlotMass again = slot_mass(pages[0], reads.data(), tasks.data(), kept.logits.data(), lse.data(), how, slot);
      EXPECT_EQ(again.value, mass[slot].value) << "the host's arithmetic on the same logits";
      EXPECT_EQ(again.seen, mass[slot].seen);
    }
  }
}

TEST_P(Decisions, LogitsStayWhileOthersAreMade) {
  PageWorld world(*device_, {}, 8, 9);
  world.add_task_on({0, 1}, 16);
  const AttendTask& task = world.tasks()[0];
  const AttendOutput out = world.attend(*device_, true);
  PageWorld other(*device_, {}, 8, 10);
  other.add_task_on({2, 5, 3}, 16);
  (void)other.attend(*device_, true, false);
  const std::vector<float> lse(world.rows_per_task(), 1.0F);
  const std::vector<MassTask> tasks{{task.logits, 32, 0, world.rows_per_task()}};
  const std::vector<MassRead> reads{{0, 16, 16}};
  const std::vector<MassPage> pages{{0, 1}};
  std::vector<SlotMass> mass(16);
  device_->weigh({tasks, reads, pages, lse, Reducer::sum, 16, out.logits.data(), mass.data()});
  device_->sync();
  for (std::uint32_t slot = 0; slot < 16; ++slot) {
    EXPECT_EQ(mass[slot].value, slot_mass(pages[0], reads.data(), tasks.data(), out.logits.data(), lse.data(), Reducer::sum, slot).value);
  }
}

/// Logits with ties, and some that are no numbers.
std::vector<float> awkward_logits(std::size_t n, std::mt19937& random) {
  std::vector<float> z(n);
  for (float& x : z) {
    const auto r = static_cast<std::uint32_t>(random() % 50);
    x = r < 10 ? static_cast<float>(random() % 3) : std::normal_distribution<float>(0, 3)(random);
    if (r == 11) x = random() % 2 == 0 ? NAN : -inf;
    if (r == 12) x = inf;
  }
  return z;
}

void expect_gate(Backend& device, const route::Topk& rule, const route::Geometry& g, std::mt19937& random) {
  const std::uint32_t n = 8192 / g.n_experts + 1;
  const std::vector<float> z = awkward_logits(std::size_t{n} * g.n_experts, random);
  std::vector<route::TokenView> tokens;
  for (std::uint32_t t = 0; t < n; ++t) tokens.push_back({0, t, 0, &z[std::size_t{t} * g.n_experts]});
  const std::size_t k = g.top_k;
  std::vector<std::uint16_t> a(n * k, 5), b(n * k, 6);
  std::vector<float> wa(n * k, NAN), wb(n * k, NAN);
  ASSERT_TRUE(device.gate({&rule, &g, tokens, {a.data(), wa.data()}}));
  device.sync();
  for (std::uint32_t t = 0; t < n; ++t) rule.choose(g, tokens[t], {&b[t * k], &wb[t * k]});
  ASSERT_EQ(a, b) << g.n_experts << " experts, " << k << " chosen, " << g.gate.n_group << " groups";
  ASSERT_EQ(std::memcmp(wa.data(), wb.data(), wa.size() * sizeof(float)), 0) << g.n_experts << " experts, score " << static_cast<int>(g.gate.score);
}

TEST_P(Decisions, ExpertsAndWeightsAreThoseOfTheGate) {
  std::mt19937 random(13);
  struct Size {
    std::uint32_t e, k, groups, kept;
  };
  for (const Size s : {Size{7, 7, 1, 1}, {60, 4, 1, 1}, {128, 8, 1, 1}, {160, 6, 8, 3}, {256, 8, 8, 4}, {384, 8, 1, 1}, {896, 22, 3, 1}}) {
    for (const ScoreFunction score : {ScoreFunction::softmax, ScoreFunction::sigmoid, ScoreFunction::sqrtsoftplus}) {
      route::Geometry g{
          s.e, s.k, 1, {s.e, s.k, 0, score, random() % 2 == 0 ? ScoreOrder::pre : ScoreOrder::post, random() % 2 == 0, 2.5F, s.groups, s.kept}};
      expect_gate(*device_, {}, g, random);
      route::Topk other;
      other.order = route::GateOrder::pre;
      other.renormalise = route::GateSwitch::no;
      other.temperature = 0.7F;
      expect_gate(*device_, other, g, random);
      if (HasFatalFailure()) return;
    }
  }
  const route::Geometry small{8, 2, 1, {8, 2}};
  const std::vector<float> z(8);
  const route::TokenView token{0, 0, 0, z.data()};
  EXPECT_FALSE(device_->gate({nullptr, &small, {&token, 1}, {}})) << "a few tokens are not worth a trip";
}

INSTANTIATE_TEST_SUITE_P(Backends, Decisions, ::testing::Values("emulated", "cuda"), [](const auto& param) { return param.param; });

}  // namespace
}  // namespace moekv::test
