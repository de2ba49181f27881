// Identity (MODEL section 9): without eviction, with raw payload and scope all, every placement gives dense attention to rounding.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "support/replay_fixture.hpp"

namespace moekv {
namespace {

using testing::run_replay;

struct Placing {
  Layout layout;
  ShardMap map;
  Dedup dedup = Dedup::none;
};

const std::vector<Placing>& cases() {
  static const std::vector<Placing> all = {{Layout::local, ShardMap::none},
                                           {Layout::head, ShardMap::none},
                                           {Layout::replicated, ShardMap::none},
                                           {Layout::token, ShardMap::block_cyclic},
                                           {Layout::token, ShardMap::hash},
                                           {Layout::token, ShardMap::pikv_xor},
                                           {Layout::expert, ShardMap::expert_affine},
                                           {Layout::expert, ShardMap::hash},
                                           {Layout::expert, ShardMap::pikv_xor},
                                           {Layout::expert, ShardMap::expert_affine, Dedup::shard},
                                           {Layout::expert, ShardMap::hash, Dedup::rank},
                                           {Layout::expert, ShardMap::eplb},
                                           {Layout::expert, ShardMap::eplb, Dedup::shard},
                                           {Layout::expert, ShardMap::eplb, Dedup::rank}};
  return all;
}

/// Shapes: GQA, GQA with windows, sinks and a dense layer, MLA.
std::vector<ModelShape> shapes() {
  ModelShape mixed = testing::gqa_model(4);
  mixed.layers[0].moe = false;
  mixed.layers[1].attention = AttentionKind::window;
  mixed.layers[1].window_tokens = 10;
  mixed.layers[2].sinks = true;
  mixed.n_kv_heads = 2;
  return {testing::gqa_model(), mixed, testing::mla_model()};
}

RunSpec placed(const ModelShape& shape, std::uint32_t ranks, const Placing& c) {
  RunSpec spec = testing::small_spec(shape);
  spec.cluster.ranks = ranks;
  spec.placement.layout = c.layout;
  spec.placement.map = c.map;
  spec.placement.dedup = c.dedup;
  spec.placement.fold = true;
  spec.placement.replicas = 24;
  return spec;
}

TEST(Identity, EveryPlacementIsDenseAttention) {
  for (const ModelShape& shape : shapes()) {
    for (const std::uint32_t ranks : {1U, 3U, 4U}) {
      for (const Placing& c : cases()) {
        RunSpec spec = placed(shape, ranks, c);
        SCOPED_TRACE(fmt::format("{} ranks {} layout {} map {} dedup {}", shape.name, ranks, static_cast<int>(c.layout), static_cast<int>(c.map),
                                 static_cast<int>(c.dedup)));
        testing::expect_dense(run_replay(spec, testing::requests_of({{30, 5}, {0, 12}, {1, 1}})), 1e-5);
        if (HasFatalFailure()) return;
      }
    }
  }
}

/// Values that bf16 holds: what is left is the arithmetic, which has fp32 sums. (Rounding of other values is theirs, and grows with their logits.)
TEST(Identity, Bf16PayloadOfBf16ValuesIsDenseAttention) {
  std::vector<ModelShape> all = shapes();
  const std::size_t narrow = all.size();
  for (const bool latent : {false, true}) {  // as wide as gpt-oss-20b's and DeepSeek-V2-Lite's
    ModelShape& wide = all.emplace_back(latent ? testing::mla_model() : testing::gqa_model(1));
    wide.n_heads = latent ? 16 : 64;
    wide.n_kv_heads = latent ? 1 : 8;
    wide.d_k = latent ? 576 : 64;
    wide.d_v = latent ? 512 : 64;
    if (latent) wide.latent.d_c = 512, wide.latent.d_rope = 64;
  }
  for (std::size_t i = 0; i < all.size(); ++i) {
    for (const std::uint32_t ranks : {1U, 3U, 4U}) {
      for (const Placing& c : cases()) {
        if (i >= narrow && (ranks != 3 || c.layout != Layout::expert)) continue;
        RunSpec spec = placed(all[i], ranks, c);
        spec.payload.element = ElementFormat::bf16;
        spec.compression.k = codec::Bf16{};
        spec.compression.v = codec::Bf16{};
        testing::expect_dense(run_replay(spec, testing::requests_of({{30, 5}, {3, 12}})), 1e-5);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(Identity, ShardsPageKeysHeadGroupsKeysAndMissingExperts) {
  for (const RoutingKey key : {RoutingKey::previous_layer, RoutingKey::previous_token, RoutingKey::same_layer}) {
    for (const PageKey page : {PageKey::expert, PageKey::shard}) {
      for (const std::uint32_t head_groups : {1U, 2U, 4U}) {
        for (const Layout layout : {Layout::expert, Layout::local, Layout::head}) {
          RunSpec spec = testing::small_spec();
          spec.routing.key = key;
          spec.page.key = page;
          spec.page.head_groups = head_groups;
          spec.cluster.shards_per_rank = 3;
          spec.placement.layout = layout;
          spec.placement.map = layout == Layout::expert ? ShardMap::expert_affine : ShardMap::none;
          testing::RandomTrace trace(spec.model, testing::requests_of({{20, 6}, {5, 5}}), 3);
          trace.drop_every = 5;
          const auto transport = make_local_transport();
          const auto backend = make_host_backend(0);
          const RunOutcome out = run_replay(spec, *transport, *backend, trace);
          testing::expect_dense(out, 1e-5);
          EXPECT_EQ(testing::totals(out).stored_home > 0, layout == Layout::expert);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(Identity, PaperCopiesAreABiasedSoftmax) {
  RunSpec spec = testing::small_spec();
  testing::use_expert_layout(spec);
  spec.read.copies = CopyRule::paper;
  const RunOutcome out = run_replay(spec);
  double worst = 0;
  for (const ProbeRecord& p : out.probes) worst = std::max(worst, p.attn_out_err);
  EXPECT_LE(worst, 1e-5) << "every token has the same number of copies, so counting all of them cancels";
  testing::RandomTrace trace(spec.model, testing::default_requests(), 3);
  trace.drop_every = 3;  // tokens with one copy among tokens with three
  const auto transport = make_local_transport();
  const auto backend = make_host_backend(0);
  worst = 0;
  for (const ProbeRecord& p : run_replay(spec, *transport, *backend, trace).probes) worst = std::max(worst, p.attn_out_err);
  EXPECT_GT(worst, 1e-2);
}

}  // namespace
}  // namespace moekv
