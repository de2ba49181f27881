// What runs keep for each other: the same results as runs of their own, nothing made twice where there is room, and no more bytes than are allowed.
#include "engine/kept_inputs.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <memory>
#include <vector>

#include "engine/replay.hpp"
#include "support/replay_fixture.hpp"

namespace moekv {
namespace {

/// Counts what a generator is asked for.
class CountedQkv final : public QkvSource {
 public:
  explicit CountedQkv(std::shared_ptr<QkvSource> source) : source_(std::move(source)) {}
  void keys_values(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts experts, float* k, float* v) override {
    ++histories;
    source_->keys_values(layer, r, begin, end, experts, k, v);
  }
  void queries(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts experts, float* q) override {
    ++single_queries;
    source_->queries(layer, r, begin, end, experts, q);
  }
  void rows(const ModelShape& shape, LayerId layer, TokenExperts experts, std::span<const generate::RowRange> ranges, float* k, float* v,
            float* q) override {
    ++layer_steps;
    layer_steps_with_queries += q != nullptr ? 1 : 0;
    source_->rows(shape, layer, experts, ranges, k, v, q);
  }
  void sink_logits(LayerId layer, float* out) override { source_->sink_logits(layer, out); }

  int layer_steps = 0, layer_steps_with_queries = 0, histories = 0, single_queries = 0;

 private:
  std::shared_ptr<QkvSource> source_;
};

RunSpec spec_of(ModelShape model, const EvictRule& rule, ElementFormat element = ElementFormat::bf16) {
  RunSpec spec = testing::small_spec(std::move(model));
  spec.placement.layout = Layout::local;
  spec.payload.element = element;
  spec.eviction.rule = rule;
  spec.eviction.unit = EvictUnit::token;
  spec.eviction.budget = {BudgetKind::tokens, 24, 1, 1};
  return spec;
}

RunOutcome run_with(const RunSpec& spec, std::shared_ptr<QkvSource> generator, std::shared_ptr<KeptInputs> inputs) {
  testing::RandomTrace trace(spec.model, testing::requests_of({{40, 9}, {57, 1}, {13, 20}, {1, 1}, {0, 25}}), 11);
  const auto transport = make_local_transport();
  const auto device = make_backend("host", 1);
  ReplayHooks hooks;
  hooks.generator = std::move(generator);
  hooks.inputs = std::move(inputs);
  return replay(spec, trace, *device, *transport, hooks);
}

void expect_same(const RunOutcome& a, const RunOutcome& b) {
  EXPECT_EQ(a.digest, b.digest);
  ASSERT_EQ(a.probes.size(), b.probes.size());
  const auto bits = [](auto value) { return std::bit_cast<std::uint64_t>(value); };
  for (std::size_t i = 0; i < a.probes.size(); ++i) {
    const ProbeRecord &x = a.probes[i], &y = b.probes[i];
    for_each_field(ProbeRecord::metrics, [&](const auto& m) {
      EXPECT_EQ(bits(x.*m.member), bits(y.*m.member)) << m.name << " of request " << x.request << " position " << x.position;
    });
  }
}

std::shared_ptr<CountedQkv> counted_generator(const RunSpec& spec, std::shared_ptr<KeptBytes> kept = nullptr) {
  return std::make_shared<CountedQkv>(make_qkv_generator(spec.payload.generator, spec.model, 1, std::move(kept)));
}

TEST(KeptInputs, ASecondRunOverTheSameRowsMakesNoneAndIsTheSame) {
  for (const ModelShape& model : {testing::gqa_model(2), testing::mla_model()}) {
    const RunSpec spec = spec_of(model, evict::Tova{});
    const RunOutcome alone = run_with(spec, counted_generator(spec), nullptr);
    ASSERT_GT(alone.probes.size(), 100U);
    const auto kept = std::make_shared<KeptBytes>();
    const auto inputs = std::make_shared<KeptInputs>(kept);
    const auto generator = counted_generator(spec, kept);
    expect_same(alone, run_with(spec, generator, inputs));
    EXPECT_GT(generator->layer_steps, 10);
    EXPECT_EQ(generator->histories, 5 * static_cast<int>(spec.model.n_layers())) << "that of a request and layer is made once";
    EXPECT_EQ(generator->single_queries, 0);
    generator->layer_steps = generator->histories = 0;
    expect_same(alone, run_with(spec, generator, inputs));
    EXPECT_EQ(generator->layer_steps, 0);
    EXPECT_EQ(generator->histories, 0);
    EXPECT_EQ(generator->single_queries, 0);
  }
}

TEST(KeptInputs, ARunWithOtherQueriesTakesTheKeysAndMakesItsOwn) {
  RunSpec first = spec_of(testing::gqa_model(2), evict::Fifo{});
  first.prefill.queries = PrefillQueries::none;
  first.probe.samples = 0;
  const auto kept = std::make_shared<KeptBytes>();
  const auto inputs = std::make_shared<KeptInputs>(kept);
  const auto generator = counted_generator(first, kept);
  expect_same(run_with(first, counted_generator(first), nullptr), run_with(first, generator, inputs));
  EXPECT_LT(generator->layer_steps_with_queries, generator->layer_steps) << "steps of prompts alone";
  const int before = generator->layer_steps;
  const RunSpec second = spec_of(testing::gqa_model(2), evict::Tova{});
  expect_same(run_with(second, counted_generator(second), nullptr), run_with(second, generator, inputs));
  EXPECT_GT(generator->layer_steps, before);
  EXPECT_LT(generator->layer_steps, 2 * before) << "only steps with a prompt";
  EXPECT_GT(generator->single_queries, 0) << "probes of steps whose queries are kept";
  RunSpec other_type = second;  // of which nothing but the exact attention is of use
  other_type.payload.element = ElementFormat::fp16;
  generator->histories = 0;
  expect_same(run_with(other_type, counted_generator(other_type), nullptr), run_with(other_type, generator, inputs));
  EXPECT_EQ(generator->histories, 0);
}

TEST(KeptInputs, WhatDoesNotFitIsMadeAgain) {
  const RunSpec spec = spec_of(testing::gqa_model(2), evict::Tova{});
  const RunOutcome alone = run_with(spec, counted_generator(spec), nullptr);
  const auto all = std::make_shared<KeptBytes>();
  const auto all_inputs = std::make_shared<KeptInputs>(all);
  (void)run_with(spec, counted_generator(spec), all_inputs);
  const std::uint64_t needed = all->used();
  for (const std::uint64_t most : {needed / 2, needed / 3, needed / 8, std::uint64_t{0}}) {
    const auto kept = std::make_shared<KeptBytes>(most);
    const auto inputs = std::make_shared<KeptInputs>(kept);
    const auto generator = counted_generator(spec, kept);
    kept->release_by([&](KeptBytes::For purpose) { return purpose == KeptBytes::For::requests_in_flight && inputs->drop_latest(); });
    expect_same(alone, run_with(spec, generator, inputs));
    EXPECT_LE(kept->used(), most);
    const int first = generator->layer_steps;
    generator->layer_steps = generator->histories = 0;
    expect_same(alone, run_with(spec, generator, inputs));
    EXPECT_LE(kept->used(), most);
    EXPECT_GT(generator->histories, 0) << "exact attention comes last, so it is the first that has no room";
    if (most == needed / 2) {
      EXPECT_EQ(generator->layer_steps, 0);
    } else if (most == needed / 3) {
      EXPECT_GT(generator->layer_steps, 0);
      EXPECT_LT(generator->layer_steps, first);
    } else if (most == 0) {
      EXPECT_EQ(generator->layer_steps, first);
    }
  }
}

TEST(KeptInputs, NothingIsKeptWhereRowsDependOnExperts) {
  RunSpec spec = spec_of(testing::gqa_model(2), evict::Tova{});
  testing::use_expert_layout(spec);
  spec.payload.generator.expert_affinity = 0.5;
  const auto kept = std::make_shared<KeptBytes>();
  const auto inputs = std::make_shared<KeptInputs>(kept);
  (void)run_with(spec, counted_generator(spec), inputs);
  EXPECT_EQ(kept->used(), 0);
}

TEST(KeptInputs, CountsWhatItHoldsAndGivesItBackFromTheEnd) {
  const auto kept = std::make_shared<KeptBytes>(1000);
  KeptInputs::Rows rows{KeptInputs::Kind::keys, ElementFormat::bf16, LayerId(3), {{7, 0, 4}, {8, 5, 6}}};
  {
    KeptInputs inputs(kept);
    EXPECT_EQ(inputs.find(rows), nullptr);
    const auto room = inputs.add(rows, 100);
    ASSERT_NE(room, nullptr);
    EXPECT_GE(kept->used(), 100);
    EXPECT_EQ(inputs.find(rows), room);
    std::vector<KeptInputs::Rows> others(4, rows);
    others[0].kind = KeptInputs::Kind::queries;
    others[1].element = ElementFormat::fp16;
    others[2].layer = LayerId(4);
    others[3].tokens[1].end = 7;
    for (const KeptInputs::Rows& other : others) EXPECT_EQ(inputs.find(other), nullptr);
    const std::uint64_t before = kept->used();
    inputs.add(KeptInputs::Query{LayerId(3), RequestId(7), 2}, std::make_shared<ExactResult>(ExactResult{{1, 2}, {3}}));
    EXPECT_NE(inputs.find(KeptInputs::Query{LayerId(3), RequestId(7), 2}), nullptr);
    EXPECT_EQ(inputs.find(KeptInputs::Query{LayerId(3), RequestId(7), 3}), nullptr);
    rows.layer = LayerId(4);
    EXPECT_EQ(inputs.add(rows, 1000), nullptr);
    EXPECT_TRUE(inputs.drop_latest());
    EXPECT_EQ(inputs.find(KeptInputs::Query{LayerId(3), RequestId(7), 2}), nullptr);
    EXPECT_EQ(kept->used(), before);
    rows.layer = LayerId(3);
    EXPECT_NE(inputs.find(rows), nullptr);
  }
  EXPECT_EQ(kept->used(), 0) << "with the last of it";
}

}  // namespace
}  // namespace moekv
