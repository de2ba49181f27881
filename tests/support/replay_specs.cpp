// The specifications that replays of several processes, and of several parts, are tried with.
#include "support/replay_specs.hpp"

#include <fstream>

#include "support/replay_fixture.hpp"
#include "support/temp_dir.hpp"

namespace moekv::testing {
namespace {

/// A run of every router that has state or sees a group of tokens, over caches that miss.
void add_routers(std::vector<std::pair<std::string, RunSpec>>& all) {
  const std::vector<RouteRule> routers{route::LoadBalance{2.0F, 0.5F},
                                       route::CacheAware{1.0F, 0.8F},
                                       route::EntropyBalanced{2.0F, 0.5F},
                                       route::Bandit{},
                                       route::Dsv3{.bias_u = 0.2F},
                                       route::Capacity{},
                                       route::Gshard{},
                                       route::Sinkhorn{},
                                       route::ExpertChoice{}};
  for (const RouteRule& router : routers) {
    RunSpec spec = small_spec();
    use_expert_layout(spec);
    spec.routing.rule = router;
    spec.eviction.rule = evict::Lru{};
    spec.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
    spec.probe.samples = 32;
    all.emplace_back(std::visit([](const auto& rule) { return std::string(rule.name); }, router), spec);
  }
  RunSpec spec = all.back().second;  // pages of several experts: misses are counted by the experts that asked
  spec.routing.rule = route::Bandit{.explore = route::Explore::ucb, .beta_steps = 2, .k_steps = 2};
  spec.placement.dedup = Dedup::shard;
  spec.page.key = PageKey::shard;
  all.emplace_back("bandit over shared pages", spec);
  spec.routing.rule = route::Bandit{.reward = route::Reward::latency, .epsilon = 0.5F, .k_steps = 2};
  all.emplace_back("bandit, modelled time", spec);
}

/// Every allocator, each over another layout.
void add_allocators(std::vector<std::pair<std::string, RunSpec>>& all) {
  static const TempDir folder;
  std::ofstream(folder.file("heads.csv")) << ".9 .1 .6 .3\n.2 .8 .7 .1\n.5 .4 .9 .8\n";
  const auto add = [&](const Allocator& allocator, Layout layout, ShardMap map, const EvictRule& rule) {
    RunSpec spec = small_spec();
    spec.placement.layout = layout;
    spec.placement.map = map;
    spec.page.head_groups = 4;
    spec.eviction.rule = rule;
    spec.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
    spec.eviction.allocator = allocator;
    spec.probe.samples = 16;
    const bool reads = std::visit([](const auto& a) { return allocate::needs_table<std::decay_t<decltype(a)>>; }, allocator);
    if (reads) spec.eviction.allocator_path = folder.file("heads.csv");
    all.emplace_back("allocator " + std::visit([](const auto& a) { return std::string(a.name); }, allocator), spec);
  };
  add(allocate::Pyramid{4}, Layout::expert, ShardMap::expert_affine, evict::Lru{});
  add(allocate::Ada{}, Layout::token, ShardMap::block_cyclic, evict::H2oSum{});
  add(allocate::Ada{}, Layout::expert, ShardMap::hash, evict::Knorm{});
  add(allocate::Pooled{allocate::Over::heads, 0.2}, Layout::local, ShardMap::none, evict::Tova{});
  add(allocate::Pooled{allocate::Over::layers, 0}, Layout::expert, ShardMap::expert_affine, evict::H2oSum{});
  add(allocate::Cake{.window = 6}, Layout::token, ShardMap::block_cyclic, evict::H2oSum{});
  add(allocate::Cake{.window = 6}, Layout::head, ShardMap::none, evict::H2oDecay{});
  add(allocate::Duo{0.5, 2, 6}, Layout::head, ShardMap::none, evict::Streaming{});
  add(allocate::File{}, Layout::token, ShardMap::block_cyclic, evict::Random{});
}

}  // namespace

std::vector<std::pair<std::string, RunSpec>> varied_specs() {
  std::vector<std::pair<std::string, RunSpec>> all;
  const auto add = [&](const std::string& name, auto change) {
    RunSpec spec = small_spec();
    use_expert_layout(spec);
    change(spec);
    all.emplace_back(name, spec);
  };
  add("h2o, fraction", [](RunSpec& s) {
    s.eviction.rule = evict::H2oSum{};
    s.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
  });
  add("eplb with replicas, lru", [](RunSpec& s) {
    s.placement.map = ShardMap::eplb;
    s.placement.replicas = 20;
    s.eviction.rule = evict::Lru{};
    s.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
    s.read.scope = ReadScope::routed;
  });
  add("eplb, replanned, lru", [](RunSpec& s) {
    s.placement.map = ShardMap::eplb;
    s.placement.replicas = 20;
    s.placement.load = LoadSource::window;
    s.placement.replan_every_steps = 3;
    s.placement.window_steps = 5;
    s.cluster.network.ranks_per_node = 2;
    s.eviction.rule = evict::Lru{};
    s.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
    s.read.scope = ReadScope::routed;
  });
  add("eplb, replanned, shadows, int8, h2o, shards", [](RunSpec& s) {
    s.placement.map = ShardMap::eplb;
    s.placement.replan_every_steps = 2;
    s.placement.shadow = ShadowRule::fastermoe;
    s.placement.shadow_tflops = 1e-6;
    s.placement.home = HomeRule::least_loaded;
    s.cluster.shards_per_rank = 2;
    s.compression.k = codec::Int8Token{};
    s.compression.v = codec::Int8Token{};
    s.eviction.rule = evict::H2oSum{};
    s.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
  });
  add("arc over a host tier, shard scope", [](RunSpec& s) {
    s.eviction.rule = evict::Arc{};
    s.eviction.action = EvictAction::demote;
    s.eviction.scope = EvictScope::shard;
    s.eviction.budget = {BudgetKind::pages, 30, 1, 1};
    s.read.scope = ReadScope::routed;
  });
  add("h2o over a host tier, int8, token layout", [](RunSpec& s) {
    s.placement.layout = Layout::token;
    s.placement.map = ShardMap::hash;
    s.compression.k = s.compression.v = codec::Int8Token{};
    s.eviction.rule = evict::H2oSum{};
    s.eviction.action = EvictAction::demote;
    s.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
  });
  add("h2o, one layer", [](RunSpec& s) {
    s.trace.layers = {1};
    s.eviction.rule = evict::H2oSum{};
    s.eviction.budget = {BudgetKind::tokens, 12, 1, 1};
  });
  add("lru routed pages at shard scope", [](RunSpec& s) {
    s.eviction.rule = evict::Lru{};
    s.eviction.scope = EvictScope::shard;
    s.eviction.budget = {BudgetKind::pages, 40, 1, 1};
    s.read.scope = ReadScope::routed;
  });
  add("fifo ring, xor map, paper copies", [](RunSpec& s) {
    s.placement.map = ShardMap::pikv_xor;
    s.read.copies = CopyRule::paper;
    s.eviction.rule = evict::Fifo{};
    s.eviction.scope = EvictScope::shard;
    s.eviction.unit = EvictUnit::token;
    s.eviction.budget = {BudgetKind::tokens, 150, 1, 1};
  });
  add("token layout, int8, streaming, head groups", [](RunSpec& s) {
    s.placement.layout = Layout::token;
    s.placement.map = ShardMap::block_cyclic;
    s.page.head_groups = 2;
    s.compression.k = codec::Int8Token{};
    s.compression.v = codec::Int8Token{};
    s.eviction.rule = evict::Streaming{};
    s.eviction.budget = {BudgetKind::tokens, 24, 1, 1};
  });
  add("codec per page by its error, lru", [](RunSpec& s) {
    s.compression.k = s.compression.v = codec::Adaptive{.max_error = 0.075F};
    s.eviction.rule = evict::Lru{};
    s.eviction.budget = {BudgetKind::bytes, 4096, 1, 1};
  });
  add("codec per page by its attention, mla", [](RunSpec& s) {
    s = small_spec(mla_model());
    s.compression.k = s.compression.v = codec::Adaptive{.by = codec::AdaptBy::importance, .low = 0.45F, .high = 0.55F};
    s.eviction.rule = evict::Streaming{};
    s.eviction.budget = {BudgetKind::tokens, 24, 1, 1};
  });
  add("head layout, mla, random tokens, arrivals", [](RunSpec& s) {
    s = small_spec(mla_model());
    s.placement.layout = Layout::head;
    s.batch.load = LoadKind::arrivals;
    s.eviction.rule = evict::Random{};
    s.eviction.unit = EvictUnit::token;
    s.eviction.budget = {BudgetKind::fraction, 0, 1, 3};
  });
  add("r_kv on int8 pages, copies under experts", [](RunSpec& s) {
    s.compression.k = codec::Int8Token{};
    s.compression.v = codec::Int8Token{};
    s.eviction.rule = evict::RKv{};
    s.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
  });
  add("layer sums before attend", [](RunSpec& s) {
    s.step_order = StepOrder::pikv;
    s.eviction.rule = evict::PikvDuoLayersum{};
    s.eviction.budget = {BudgetKind::fraction, 0, 1, 3};
    s.read.scope = ReadScope::routed;
  });
  add("threshold at shard scope, token layout, before attend", [](RunSpec& s) {
    s.placement.layout = Layout::token;
    s.placement.map = ShardMap::block_cyclic;
    s.step_order = StepOrder::pikv;
    evict::ThresholdAdaptive rule;
    rule.delta = 3;
    s.eviction.rule = rule;
    s.eviction.scope = EvictScope::shard;
    s.eviction.budget = {BudgetKind::pages, 12, 1, 1};
  });
  add("mass access, lru, least loaded homes", [](RunSpec& s) {
    s.eviction.rule = evict::Lru{};
    s.eviction.access = AccessSource::mass;
    s.eviction.access_mass = 0.05;
    s.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
    s.placement.home = HomeRule::least_loaded;
    s.combine = CombineType::bf16;
  });
  add("quest, lru, selected access, head groups", [](RunSpec& s) {
    s.read.select = select::Quest{.budget_pages = 2, .dense_layers = 1};
    s.page.head_groups = 2;
    s.eviction.rule = evict::Lru{};
    s.eviction.access = AccessSource::selected;
    s.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
  });
  add_routers(all);
  add_allocators(all);
  return all;
}

}  // namespace moekv::testing
