// bootstrap: new requests made of 64-token blocks of a recorded trace, drawn with replacement; keeps short-range locality and cross-layer structure.
#include <fmt/format.h>

#include <algorithm>

#include "core/rng.hpp"
#include "trace/synthetic_detail.hpp"

namespace moekv::synthetic {
namespace {

constexpr std::uint32_t run_tokens = 64;

class Bootstrap final : public TraceSource {
 public:
  Bootstrap(const SyntheticSpec& spec, std::unique_ptr<TraceSource> recorded)
      : recorded_(std::move(recorded)), info_(recorded_->info()), requests_(make_requests(spec)), seed_(spec.seed) {
    blocks_before_.push_back(0);
    for (std::uint32_t r = 0; r < recorded_->n_requests(); ++r)
      blocks_before_.push_back(blocks_before_.back() + recorded_->request(RequestId(r)).total_tokens() / run_tokens);
    info_.source = fmt::format("64-token blocks of {}", info_.path);
    info_.path = "synthetic:bootstrap";
    info_.digest = fmt::format("{}-{:016x}", info_.digest, hash_words(spec.seed, spec.n_requests, spec.prompt_tokens, spec.output_tokens));
    info_.joined = true;
    info_.kv_layers.clear();
    if (blocks_before_.back() == 0)
      throw UserError(recorded_->info().path, fmt::format("no request has {} tokens to resample", run_tokens),
                      "use a trace with longer requests, or join them");
  }

  [[nodiscard]] const TraceInfo& info() const override { return info_; }
  [[nodiscard]] std::uint32_t n_requests() const override { return static_cast<std::uint32_t>(requests_.size()); }
  [[nodiscard]] RequestInfo request(RequestId r) const override { return requests_.at(r.value); }

  void read(RequestId r, std::uint32_t begin, std::uint32_t end, std::uint32_t layer_begin, std::uint32_t layer_end, WantLogits want,
            RoutingRows& out) override {
    out.begin = begin;
    out.end = end;
    out.layer_begin = layer_begin;
    out.layer_end = layer_end;
    out.ids.clear();
    out.weights.clear();
    out.logits.clear();
    for (std::uint32_t t = begin; t < end;) {
      const std::uint32_t block = t / run_tokens, stop = std::min(end, (block + 1) * run_tokens);
      const auto [source, start] = origin(r.value, block);
      const std::uint32_t from = start + t % run_tokens;
      recorded_->read(source, from, from + (stop - t), layer_begin, layer_end, want, part_);
      out.ids.insert(out.ids.end(), part_.ids.begin(), part_.ids.end());
      out.weights.insert(out.weights.end(), part_.weights.begin(), part_.weights.end());
      out.logits.insert(out.logits.end(), part_.logits.begin(), part_.logits.end());
      t = stop;
    }
  }

 private:
  struct Origin {
    RequestId request;
    std::uint32_t position;
  };
  /// The recorded block behind block `block` of request `r`: uniform over all full blocks of the trace.
  [[nodiscard]] Origin origin(std::uint32_t r, std::uint32_t block) const {
    const Draw4 d = draw4(seed_, Stream::bootstrap, r, block, 0);
    const std::uint64_t pick = (static_cast<std::uint64_t>(d.v[0]) << 32 | d.v[1]) % blocks_before_.back();
    const auto after = std::upper_bound(blocks_before_.begin(), blocks_before_.end(), pick);
    const auto source = static_cast<std::uint32_t>(after - blocks_before_.begin() - 1);
    return {RequestId(source), static_cast<std::uint32_t>(pick - blocks_before_[source]) * run_tokens};
  }

  std::unique_ptr<TraceSource> recorded_;
  TraceInfo info_;
  std::vector<RequestInfo> requests_;
  std::vector<std::uint64_t> blocks_before_;  // [recorded requests + 1]
  std::uint64_t seed_;
  RoutingRows part_;
};

}  // namespace

std::unique_ptr<TraceSource> make_bootstrap(const SyntheticSpec& spec, const ModelShape& shape, std::unique_ptr<TraceSource> recorded) {
  const TraceInfo& info = recorded->info();
  std::vector<Problem> problems;
  const auto differ = [&](const char* what, std::size_t wanted, std::size_t found) {
    if (wanted != 0 && wanted != found)
      problems.push_back({info.path, fmt::format("the recorded trace has {} {}, the model {}", found, what, wanted),
                          "bootstrap keeps the recorded routing: use its own shape"});
  };
  differ("experts", shape.gate.n_experts, info.n_experts);
  differ("experts per token", shape.gate.top_k, info.top_k);
  differ("MoE layers", static_cast<std::size_t>(std::count_if(shape.layers.begin(), shape.layers.end(), [](const LayerShape& l) { return l.moe; })),
         info.moe_layers.size());
  if (!problems.empty()) throw UserError(std::move(problems));
  return std::make_unique<Bootstrap>(spec, std::move(recorded));
}

}  // namespace moekv::synthetic
