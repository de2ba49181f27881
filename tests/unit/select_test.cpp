// Read-set rules and the bounds they look at, through the host backend: against plain loops over the keys that were stored.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <set>

#include "device/backend.hpp"
#include "rules/codec/catalogue.hpp"
#include "rules/codec/element.hpp"
#include "rules/select/catalogue.hpp"

namespace moekv {
namespace {

/// The specification of `choose_pages`, by sorting everything.
std::vector<std::uint32_t> slow_choice(const select::Pick& pick, const std::vector<float>& scores, std::uint32_t newest) {
  std::vector<std::pair<float, std::uint32_t>> others;
  for (std::uint32_t i = 0; i < scores.size(); ++i) {
    if (!pick.newest || i != newest) others.emplace_back(-scores[i], i);
  }
  std::sort(others.begin(), others.end());
  std::set<std::uint32_t> chosen;
  if (pick.newest && !scores.empty()) chosen.insert(newest);
  for (std::uint32_t i = 0; i < others.size() && i < pick.best; ++i) chosen.insert(others[i].second);
  return {chosen.begin(), chosen.end()};
}

TEST(ChoosePages, IsTheBestOnesAndTheLowestAmongEquals) {
  std::mt19937 random(3);
  std::vector<std::uint32_t> chosen;
  for (int round = 0; round < 2000; ++round) {
    std::vector<float> scores(random() % 12);
    for (float& s : scores) s = static_cast<float>(random() % 4) - 1.5F;  // many ties
    const std::uint32_t newest = scores.empty() ? 0 : static_cast<std::uint32_t>(random() % scores.size());
    std::vector<std::uint32_t> smaller;
    for (std::uint32_t best = 0; best < 14; ++best) {
      for (const bool apart : {false, true}) {
        const select::Pick pick{best, apart};
        select::choose_pages(pick, scores, newest, chosen);
        ASSERT_EQ(chosen, slow_choice(pick, scores, newest)) << "best " << best << " newest apart " << apart;
      }
      ASSERT_TRUE(std::includes(chosen.begin(), chosen.end(), smaller.begin(), smaller.end())) << "a larger budget reads what a smaller one reads";
      smaller = chosen;
    }
  }
}

TEST(ChoosePages, NoNumberLosesToAll) {
  const float nan = std::nanf("");
  std::vector<std::uint32_t> chosen;
  select::choose_pages({2, false}, std::vector<float>{nan, -INFINITY, 3.0F, nan, -7.0F}, 0, chosen);
  EXPECT_EQ(chosen, (std::vector<std::uint32_t>{2, 4}));
}

TEST(Quest, PicksWhatItsTwoPublishedPathsPick) {
  select::Quest quest;
  quest.budget_pages = 5;
  EXPECT_EQ(quest.pick().best, 4U);
  EXPECT_TRUE(quest.pick().newest);
  quest.variant = select::QuestVariant::accuracy;
  EXPECT_EQ(quest.pick().best, 5U);
  EXPECT_FALSE(quest.pick().newest);
  quest.budget_pages = 1;
  EXPECT_EQ(quest.pick().best, 3U);
}

TEST(Quest, LeavesFirstLayersAndThePromptDense) {
  select::Quest quest;
  EXPECT_FALSE(selects_at(quest, 1, false));
  EXPECT_TRUE(selects_at(quest, 2, false));
  EXPECT_FALSE(selects_at(quest, 2, true));
  quest.prompt = select::PromptReads::selected;
  EXPECT_TRUE(selects_at(quest, 2, true));
  EXPECT_FALSE(selects_at(select::All{}, 9, false));
}

/// Blocks written through a backend, with the keys kept in fp32.
class BoundsWorld {
 public:
  BoundsWorld(ElementFormat element, std::uint32_t d, std::uint32_t heads, bool latent, int threads)
      : backend_(make_host_backend(threads)),
        element_(element),
        d_(d),
        heads_(heads),
        format_{PlaneFormat{element}, PlaneFormat{element}, 8, heads, d, d, latent, true, element},
        raw_(backend_->create_pool(format_, 1 << 16)) {}

  /// Stores one more key in a block. Returns nothing; the key joins the block's list.
  void queue(std::uint32_t block, std::uint32_t slot, std::mt19937& random) {
    if (keys_.size() <= block) keys_.resize(block + 1);
    Row row{std::vector<std::byte>(std::size_t{heads_} * d_ * element_bits(element_) / 8), {}};
    for (std::size_t i = 0; i < std::size_t{heads_} * d_; ++i) {
      const float x = static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 64.0F;
      row.values.push_back(put(row.bytes.data(), i, x));
    }
    rows_.push_back(std::move(row));
    fresh_.push_back(keys_[block].empty());
    keys_[block].push_back(rows_.back().values);
    places_.emplace_back(block, slot);
  }
  void write() {
    std::vector<AppendOp> ops;
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      const std::byte* row = rows_[i].bytes.data();
      ops.push_back({{raw_, places_[i].first}, places_[i].second, row, format_.latent ? nullptr : row, fresh_[i]});
    }
    backend_->append(ops);
    rows_.clear();
    fresh_.clear();
    places_.clear();
  }
  /// The block is taken for another page: its next key is fresh.
  void reuse(std::uint32_t block) { keys_[block].clear(); }

  [[nodiscard]] Backend& backend() { return *backend_; }
  [[nodiscard]] const BlockFormat& format() const { return format_; }
  [[nodiscard]] BlockRef block(std::uint32_t i) const { return {raw_, i}; }
  [[nodiscard]] const std::vector<std::vector<float>>& keys(std::uint32_t block) const { return keys_[block]; }

  /// From the keys: sum over the query heads of the bound, in double.
  [[nodiscard]] double bound(std::uint32_t block, const std::vector<float>& q, std::uint32_t group, select::HeadReducer how) const {
    double out = 0;
    for (std::uint32_t h = 0; h < heads_ * group; ++h) {
      double score = 0, best = -INFINITY;
      for (std::uint32_t c = 0; c < d_; ++c) {
        const std::size_t column = std::size_t{h / group} * d_ + c;
        double low = INFINITY, high = -INFINITY;
        for (const auto& k : keys_[block]) {
          low = std::min(low, static_cast<double>(k[column]));
          high = std::max(high, static_cast<double>(k[column]));
        }
        const auto x = static_cast<double>(q[std::size_t{h} * d_ + c]);
        score += std::max(x * low, x * high);
      }
      for (const auto& k : keys_[block]) {
        double dot = 0;
        for (std::uint32_t c = 0; c < d_; ++c)
          dot += static_cast<double>(q[std::size_t{h} * d_ + c]) * static_cast<double>(k[std::size_t{h / group} * d_ + c]);
        best = std::max(best, dot);
      }
      EXPECT_GE(score, best - 1e-6 * std::abs(best)) << "a bound bounds";
      out = h == 0 ? score : how == select::HeadReducer::sum ? out + score : std::max(out, score);
    }
    return out;
  }
  /// Writes value i in the payload's type and gives back what the type holds of it.
  float put(std::byte* to, std::size_t i, float x) const {
    if (element_ == ElementFormat::fp32) {
      std::memcpy(to + 4 * i, &x, 4);
      return x;
    }
    const std::uint16_t bits = element_ == ElementFormat::bf16 ? bf16_from_float(x) : fp16_from_float(x);
    std::memcpy(to + 2 * i, &bits, 2);
    return element_ == ElementFormat::bf16 ? float_from_bf16(bits) : float_from_fp16(bits);
  }

 private:
  struct Row {
    std::vector<std::byte> bytes;
    std::vector<float> values;
  };
  std::unique_ptr<Backend> backend_;
  ElementFormat element_;
  std::uint32_t d_, heads_;
  BlockFormat format_;
  PoolId raw_;
  std::vector<std::vector<std::vector<float>>> keys_;  // [blocks][keys so far][heads * d]
  std::vector<Row> rows_;
  std::vector<bool> fresh_;
  std::vector<std::pair<std::uint32_t, std::uint32_t>> places_;
};

/// Scores `blocks` for two query rows of which the second is asked for, and compares with the keys.
void expect_scores(BoundsWorld& world, const std::vector<BlockRef>& blocks, std::uint32_t group, select::HeadReducer how, std::mt19937& random) {
  const BlockFormat& f = world.format();
  const std::uint32_t row_heads = f.n_kv_heads * group + 1, heads = f.n_kv_heads * group;  // one head of the row belongs to another head group
  std::vector<std::byte> q(std::size_t{2} * row_heads * f.d_k * element_bits(f.bounds_element) / 8);
  std::vector<float> values;
  for (std::size_t i = 0; i < std::size_t{2} * row_heads * f.d_k; ++i) {
    values.push_back(world.put(q.data(), i, static_cast<float>(static_cast<int>(random() % 401) - 200) / 32.0F));
  }
  const std::vector<float> used(values.begin() + static_cast<std::ptrdiff_t>(std::size_t{row_heads + 1} * f.d_k), values.end());
  select::Quest quest;
  quest.heads = how;
  const SelectRule rule = quest;
  const auto n = static_cast<std::uint32_t>(blocks.size());
  const ScoreTask tasks[] = {{0, n / 2, 1, 1, f.n_kv_heads, group}, {n / 2, n - n / 2, 1, 1, f.n_kv_heads, group}};
  std::vector<float> scores(n, NAN);
  world.backend().score_pages({tasks, blocks, q.data(), f.bounds_element, row_heads, f.d_k, &rule, scores.data()});
  world.backend().sync();
  for (std::uint32_t i = 0; i < n; ++i) {
    const double expected = world.bound(blocks[i].index, used, group, how);
    ASSERT_NEAR(scores[i], expected, 2e-6 * heads * f.d_k * (1 + std::abs(expected))) << "block " << i;
  }
}

class Bounds : public ::testing::TestWithParam<std::tuple<ElementFormat, std::uint32_t, std::uint32_t, int>> {};

TEST_P(Bounds, AreThoseOfEveryKeyThatWasStored) {
  const auto [element, d, heads, threads] = GetParam();
  std::mt19937 random(17);
  BoundsWorld world(element, d, heads, heads == 1, threads);
  constexpr std::uint32_t n_blocks = 150;  // more than one chunk of pages
  std::vector<BlockRef> blocks;
  for (std::uint32_t b = 0; b < n_blocks; ++b) {
    const std::uint32_t used = 1 + b % 8;  // ragged
    for (std::uint32_t slot = 0; slot < used; ++slot) world.queue(b, slot, random);
    blocks.push_back(world.block(b));
  }
  world.write();
  expect_scores(world, blocks, 2, select::HeadReducer::sum, random);
  for (std::uint32_t b = 0; b < n_blocks; b += 3) world.queue(b, 0, random);  // a dead slot is written again: the bounds keep the dead key
  world.write();
  expect_scores(world, blocks, 3, select::HeadReducer::max, random);
  for (std::uint32_t b = 0; b < n_blocks; b += 2) {  // the page is freed and its block taken again: nothing of the old keys stays
    world.reuse(b);
    for (std::uint32_t slot = 0; slot < 1 + b % 5; ++slot) world.queue(b, slot, random);
  }
  world.write();
  expect_scores(world, blocks, 1, select::HeadReducer::sum, random);
  EXPECT_EQ(world.backend().memory().bounds_bytes, static_cast<std::int64_t>(n_blocks * world.format().bounds_bytes()));
  EXPECT_EQ(world.format().bounds_bytes(), heads * 2 * d * element_bits(element) / 8);
}

INSTANTIATE_TEST_SUITE_P(Formats, Bounds,
                         ::testing::Combine(::testing::Values(ElementFormat::bf16, ElementFormat::fp16, ElementFormat::fp32),
                                            ::testing::Values(16U, 35U, 128U), ::testing::Values(1U, 3U), ::testing::Values(1, 3)));

TEST(SealedBounds, AreThoseOfTheRawKeys) {
  std::mt19937 random(5);
  BoundsWorld world(ElementFormat::bf16, 64, 2, false, 2);
  BlockFormat sealed = world.format();
  sealed.k = codec::Int4Token{}.plane(Role::k, 64);
  sealed.v = codec::Int4Token{}.plane(Role::v, 64);
  const PoolId pool = world.backend().create_pool(sealed, 64);
  std::vector<BlockRef> blocks;
  std::vector<SealOp> ops;
  for (std::uint32_t b = 0; b < 12; ++b) {
    for (std::uint32_t slot = 0; slot < 8; ++slot) world.queue(b, slot, random);
    ops.push_back({world.block(b), {pool, b}, 8});
    blocks.push_back({pool, b});
  }
  world.write();
  world.backend().seal(ops);
  expect_scores(world, blocks, 2, select::HeadReducer::sum, random);
}

}  // namespace
}  // namespace moekv
