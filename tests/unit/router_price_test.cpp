// What another router costs and gains against the recorded choice, on four tokens that can be counted by hand.
#include <gtest/gtest.h>

#include <cmath>

#include "engine/summarise.hpp"
#include "support/replay_fixture.hpp"

namespace moekv {
namespace {

constexpr std::uint16_t none = ExpertId::invalid;

/// One layer, four experts, two a token. The logits are the logarithms of the probabilities.
class FourTokens final : public TraceSource {
 public:
  FourTokens() {
    info_.path = "four tokens";
    info_.level = RoutingLevel::logits;
    info_.n_experts = 4;
    info_.top_k = 2;
    info_.moe_layers = {0};
  }
  const TraceInfo& info() const override { return info_; }
  std::uint32_t n_requests() const override { return 1; }
  RequestInfo request(RequestId) const override {
    RequestInfo info;
    info.output_tokens = 4;
    return info;
  }
  void read(RequestId, std::uint32_t begin, std::uint32_t end, std::uint32_t layer_begin, std::uint32_t layer_end, WantLogits, RoutingRows& out) override {
    out = {begin, end, layer_begin, layer_end, {}, {}, {}};
    for (std::uint32_t t = begin; t < end; ++t) {
      out.ids.insert(out.ids.end(), std::begin(ids[t]), std::end(ids[t]));
      for (const std::uint16_t e : ids[t]) out.weights.push_back(e == none ? 0.0F : p[t][e]);
      for (const float x : p[t]) out.logits.push_back(std::log(x));
    }
  }

 private:
  // Top two of each token: {0, 1}, {2, 3}, {0, 3}, {3, 1}.
  static constexpr float p[4][4] = {{.5F, .3F, .1F, .1F}, {.1F, .2F, .4F, .3F}, {.4F, .1F, .2F, .3F}, {.1F, .2F, .1F, .6F}};
  static constexpr std::uint16_t ids[4][2] = {{0, 1}, {0, 1}, {0, 2}, {3, none}};
  TraceInfo info_;
};

double value_of(const std::vector<Summary>& summary, std::string_view name) {
  for (const Summary& s : summary) {
    if (s.name == name) return s.value;
  }
  ADD_FAILURE() << "no " << name;
  return NAN;
}

TEST(RouterPrice, IsWhatAHandCounts) {
  RunSpec spec = testing::small_spec(testing::gqa_model(1));
  spec.model.gate.n_experts = 4;
  spec.model.gate.top_k = 2;
  testing::use_expert_layout(spec);  // experts 0, 1 on rank 0, which is home; 2, 3 on rank 1
  spec.cluster.ranks = 2;
  spec.routing.key = RoutingKey::same_layer;
  spec.routing.rule = route::Topk{};
  FourTokens trace;
  const auto transport = make_local_transport();
  const auto backend = make_count_backend();
  const RunOutcome out = testing::run_replay(spec, *transport, *backend, trace);
  EXPECT_TRUE(out.violations.empty());
  const std::vector<Summary> summary = summarise(spec, out);
  EXPECT_DOUBLE_EQ(value_of(summary, "routing_change_rate"), 3.0 / 4);  // all but the first token
  EXPECT_DOUBLE_EQ(value_of(summary, "expert_jaccard"), (2.0 + 0 + 1 + 1) / (2 + 4 + 3 + 2));
  EXPECT_NEAR(value_of(summary, "gate_mass_dropped"), (0 + .3 + .2 + 0) / 4, 2e-6);
  EXPECT_NEAR(value_of(summary, "gate_mass_lost"), (0 + .3 - .7 + .2 - .3 + 0 - .2) / 4, 2e-6);
  EXPECT_DOUBLE_EQ(value_of(summary, "store_traffic_change"), 4.0 / 2);  // copies on rank 1: 2 + 1 + 1 against 1 + 1
  EXPECT_DOUBLE_EQ(value_of(summary, "expert_imbalance_ratio"), 3 / (8.0 / 4));  // loads 2, 2, 1, 3
  EXPECT_DOUBLE_EQ(value_of(summary, "expert_imbalance_recorded"), 3 / (7.0 / 4));  // loads 3, 2, 1, 1
  EXPECT_DOUBLE_EQ(value_of(summary, "expert_imbalance_gained"), 12.0 / 7 - 1.5);
}

TEST(RouterPrice, APreviousTokensExpertsNameWhereTheNextIsStored) {
  RunSpec spec = testing::small_spec(testing::gqa_model(1));
  spec.model.gate.n_experts = 4;
  spec.model.gate.top_k = 2;
  testing::use_expert_layout(spec);
  spec.cluster.ranks = 2;
  spec.routing.key = RoutingKey::previous_token;
  spec.routing.rule = route::Topk{};
  FourTokens trace;
  const auto transport = make_local_transport();
  const auto backend = make_count_backend();
  const RunOutcome out = testing::run_replay(spec, *transport, *backend, trace);
  // Tokens 1, 2, 3 by the choices of 0, 1, 2: copies on rank 1 are 0 + 2 + 1 against 0 + 0 + 1.
  EXPECT_DOUBLE_EQ(value_of(summarise(spec, out), "store_traffic_change"), 3.0);
}

TEST(RouterPrice, OfTheRecordedChoiceIsNotReported) {
  RunSpec spec = testing::small_spec();
  testing::use_expert_layout(spec);
  const std::vector<Summary> summary = summarise(spec, testing::run_replay(spec, testing::default_requests(), "count"));
  for (const Summary& s : summary) EXPECT_TRUE(s.name != "routing_change_rate" && s.name != "expert_imbalance_gained") << s.name;
}

}  // namespace
}  // namespace moekv
