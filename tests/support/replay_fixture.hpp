// A small replay for tests: random routing and random q, k, v that need no file, run through the real engine, on any transport.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "comm/transport.hpp"
#include "device/backend.hpp"
#include "engine/records.hpp"
#include "engine/run_spec.hpp"
#include "engine/step_driver.hpp"

namespace moekv::testing {

/// Uniform random experts, distinct in a token; every row a hash of (seed, request, position, layer).
class RandomTrace : public TraceSource {
 public:
  RandomTrace(const ModelShape& model, std::vector<RequestInfo> requests, std::uint64_t seed);
  const TraceInfo& info() const override { return info_; }
  std::uint32_t n_requests() const override { return static_cast<std::uint32_t>(requests_.size()); }
  RequestInfo request(RequestId r) const override { return requests_[r.value]; }
  /// Gives logits from now on: the recorded experts have the largest ones.
  void add_logits() { info_.level = RoutingLevel::logits; }
  void read(RequestId r, std::uint32_t begin, std::uint32_t end, std::uint32_t layer_begin, std::uint32_t layer_end, WantLogits want,
            RoutingRows& out) override;
  std::uint32_t drop_every = 0;  // tokens without any expert: positions = 1 modulo this

 private:
  void make_logits(RequestId r, RoutingRows& out) const;

  TraceInfo info_;
  std::vector<RequestInfo> requests_;
  std::uint64_t seed_;
};

/// Independent uniform values in [-1, 1) with a few large keys, so that softmax is neither flat nor one-hot.
class RandomQkv : public QkvSource {
 public:
  /// `rounded`: values that bf16 holds exactly.
  RandomQkv(ModelShape model, std::uint64_t seed, bool rounded = false) : model_(std::move(model)), seed_(seed), rounded_(rounded) {}
  void keys_values(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts, float* k, float* v) override;
  void queries(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts, float* q) override;
  void sink_logits(LayerId layer, float* out) override;

 private:
  void fill(float* to, std::uint32_t kind, LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, std::uint32_t width) const;

  ModelShape model_;
  std::uint64_t seed_;
  bool rounded_;
};

[[nodiscard]] ModelShape gqa_model(std::uint32_t n_layers = 3);
[[nodiscard]] ModelShape mla_model();
/// Requests of (prompt, output) tokens.
[[nodiscard]] std::vector<RequestInfo> requests_of(const std::vector<std::pair<std::uint32_t, std::uint32_t>>& lengths);
[[nodiscard]] const std::vector<RequestInfo>& default_requests();

/// A specification whose every query is probed, fp32 payload, four ranks.
[[nodiscard]] RunSpec small_spec(ModelShape model = gqa_model());
void use_expert_layout(RunSpec& spec, ShardMap map = ShardMap::expert_affine);

/// Called after each step, before its evictions are executed.
using AfterStep = std::function<void(const StepBatch&, ShardedCache&, StepDriver&)>;

/// Runs the engine; the outcome is complete on process 0.
[[nodiscard]] RunOutcome run_replay(const RunSpec& spec, Transport& transport, Backend& backend, TraceSource& trace,
                                    const AfterStep& after_step = {});
[[nodiscard]] RunOutcome run_replay(const RunSpec& spec, const std::vector<RequestInfo>& requests = default_requests(),
                                    const std::string& backend = "host");
[[nodiscard]] StepRecord totals(const RunOutcome& out);

/// Every probe read its whole history, with attention within `tolerance` of the exact one; no law was violated.
void expect_dense(const RunOutcome& out, double tolerance = 1e-5);

/// f(shard, page, slot) for every entry that the cache holds.
template <class F>
void for_each_live(ShardedCache& cache, F&& f) {
  for (const Shard& shard : cache.shards()) {
    for (std::uint32_t page = 0; page < shard.pages().size(); ++page) {
      if (shard.pages()[page].group == no_index) continue;
      for (std::uint32_t slot = 0; slot < shard.pages()[page].used; ++slot) {
        if (shard.live(page, slot)) f(const_cast<Shard&>(shard), page, slot);
      }
    }
  }
}

}  // namespace moekv::testing
