// Plans of replicas: what every plan must be, groups kept on nodes, and loads that become more even than those of the affine map.
#include "engine/expert_plan.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "core/error.hpp"
#include "engine/geometry.hpp"
#include "io/hdf5.hpp"
#include "support/replay_fixture.hpp"
#include "support/temp_dir.hpp"

namespace moekv {
namespace {

std::vector<double> random_load(std::uint32_t n, std::uint32_t trial) {
  std::vector<double> load(n);
  for (std::uint32_t e = 0; e < n; ++e) load[e] = draw4(3, Stream::probe, trial, e, 0).v[0] % (e % 5 == 0 ? 5000 : 300);
  return load;
}

TEST(Eplb, EveryPlanIsAPlan) {
  const EplbShape shapes[] = {{64, 64, 1, 1, 8},  {64, 72, 8, 2, 8}, {256, 288, 8, 4, 32}, {12, 16, 4, 2, 8},
                              {60, 64, 3, 2, 16}, {7, 7, 1, 1, 7},   {8, 4096, 1, 1, 1}};
  for (const EplbShape& s : shapes) {
    ASSERT_EQ(eplb_refusal(s), nullptr);
    for (std::uint32_t trial = 0; trial < 20; ++trial) {
      const std::vector<double> load = random_load(s.n_experts, trial);
      std::vector<std::uint16_t> plan(s.n_replicas + 1, 9999);
      plan_eplb(s, load.data(), plan.data());
      EXPECT_EQ(plan.back(), 9999);
      std::map<std::uint16_t, std::uint32_t> copies;
      for (std::uint32_t i = 0; i < s.n_replicas; ++i) copies[plan[i]] += 1;
      EXPECT_EQ(copies.size(), s.n_experts);
      EXPECT_LT(copies.rbegin()->first, s.n_experts);
      if (s.n_groups % s.n_nodes != 0 || s.n_nodes == 1) continue;
      std::map<std::uint32_t, std::set<std::uint32_t>> nodes_of_group;
      for (std::uint32_t i = 0; i < s.n_replicas; ++i) nodes_of_group[plan[i] / (s.n_experts / s.n_groups)].insert(i / (s.n_replicas / s.n_nodes));
      for (const auto& [group, nodes] : nodes_of_group) EXPECT_EQ(nodes.size(), 1U) << "group " << group << " lies on several nodes";
    }
  }
}

TEST(Eplb, SparesTheBusiestGpu) {
  const EplbShape s{64, 72, 1, 1, 8};
  for (std::uint32_t trial = 0; trial < 50; ++trial) {
    const std::vector<double> load = random_load(64, trial);
    std::vector<std::uint16_t> plan(72), copies(64);
    plan_eplb(s, load.data(), plan.data());
    for (const std::uint16_t e : plan) copies[e] += 1;
    std::vector<double> planned(8), affine(8);
    double total = 0;
    for (std::uint32_t i = 0; i < 72; ++i) planned[i / 9] += load[plan[i]] / copies[plan[i]];
    for (std::uint32_t e = 0; e < 64; ++e) affine[e / 8] += load[e];
    for (const double x : load) total += x;
    const double worst = *std::max_element(planned.begin(), planned.end());
    EXPECT_NEAR(std::accumulate(planned.begin(), planned.end(), 0.0), total, 1e-6);
    EXPECT_LT(worst, *std::max_element(affine.begin(), affine.end()));
    EXPECT_LT(worst, 1.15 * total / 8);
  }
}

TEST(ExpertPlan, FollowsTheLoadOfTheKeysOwnLayer) {
  RunSpec spec = testing::small_spec();  // 3 MoE layers, 12 experts, 4 ranks
  testing::use_expert_layout(spec, ShardMap::eplb);
  spec.placement.replicas = 16;
  const testing::RandomTrace trace(spec.model, testing::default_requests(), 11);
  std::vector<std::int64_t> counts(3 * 12, 1);
  counts[0 * 12 + 5] = 400;  // row 0 is the key of layers 0 and 1
  counts[1 * 12 + 2] = 400;  // row 1 is the key of layer 2
  const auto plan = plan_experts(spec, trace.info(), 4, counts);
  const auto homes = [&](std::uint32_t layer, std::uint32_t e) { return plan->first[layer * 12 + e + 1] - plan->first[layer * 12 + e]; };
  EXPECT_EQ(homes(0, 5), 4U);
  EXPECT_EQ(homes(1, 5), 4U);
  EXPECT_EQ(homes(2, 5), 1U);
  EXPECT_EQ(homes(2, 2), 4U);
  const Geometry geometry(spec, trace.info(), 4, plan);
  std::set<std::uint32_t> used;
  for (std::uint32_t p = 0; p < 100; ++p) used.insert(geometry.placement().expert_shard(2, RequestId(1), p, ExpertId(2)).value);
  EXPECT_EQ(used.size(), 4U) << "entries spread over the replicas";
  EXPECT_EQ(geometry.placement().expert_shard(2, RequestId(1), 7, ExpertId(3)), geometry.placement().expert_shard(2, RequestId(3), 9, ExpertId(3)));
}

TEST(ExpertPlan, BalancesARealReplay) {
  RunSpec spec = testing::small_spec();
  testing::use_expert_layout(spec, ShardMap::eplb);
  spec.placement.replicas = 20;
  spec.probe.samples = 0;
  const auto busiest = [&] {
    std::map<std::int64_t, std::int64_t> entries;
    const RunOutcome out = testing::run_replay(spec, testing::default_requests(), "count");
    EXPECT_TRUE(out.violations.empty()) << out.violations.front();
    for (const LoadRecord& l : out.loads) {
      if (l.entity == static_cast<std::int64_t>(Entity::rank)) entries[l.index] += l.insertions;
    }
    return std::max_element(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.second < b.second; })->second;
  };
  const std::int64_t planned = busiest();
  spec.placement.map = ShardMap::hash;
  EXPECT_LT(planned, busiest());
}

TEST(ExpertPlan, CountsFileIsChecked) {
  const TempDir folder;
  const std::string path = folder.file("load.h5");
  RunSpec spec = testing::small_spec();
  testing::use_expert_layout(spec, ShardMap::eplb);
  spec.placement.load = LoadSource::file;
  spec.placement.load_path = path;
  const auto transport = make_local_transport();
  testing::RandomTrace trace(spec.model, testing::default_requests(), 11);
  EXPECT_THROW((void)plan_experts(spec, trace, 4, *transport), UserError);
  const auto write = [&](std::uint64_t experts, double value) {
    h5::File file = h5::File::create(path);
    const std::vector<double> values(3 * experts, value);
    file.write("load", std::span<const double>(values), {3, experts});
    file.close();
  };
  write(11, 1);
  EXPECT_THROW((void)plan_experts(spec, trace, 4, *transport), UserError);
  write(12, -1);
  EXPECT_THROW((void)plan_experts(spec, trace, 4, *transport), UserError);
  write(12, 0);
  EXPECT_THROW((void)plan_experts(spec, trace, 4, *transport), UserError) << "zeros say nothing";
  write(12, 5);
  EXPECT_EQ(plan_experts(spec, trace, 4, *transport)->shard.size(), 3U * 12);
}

}  // namespace
}  // namespace moekv
