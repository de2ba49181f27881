// ArrayTrace: a TraceSource over arrays in memory, for tests that state their rows.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "trace/source.hpp"

namespace moekv::test {

class ArrayTrace final : public TraceSource {
 public:
  /// ids and weights are [tokens][layers][top_k], tokens of a request contiguous; weights may be empty.
  ArrayTrace(std::uint32_t n_experts, std::uint32_t top_k, std::uint32_t n_layers, std::vector<std::uint32_t> lengths, std::vector<std::uint16_t> ids,
             std::vector<float> weights = {})
      : lengths_(std::move(lengths)), ids_(std::move(ids)), weights_(std::move(weights)) {
    info_.path = "array";
    info_.n_experts = n_experts;
    info_.top_k = top_k;
    info_.level = weights_.empty() ? RoutingLevel::ids : RoutingLevel::weights;
    for (std::uint32_t l = 0; l < n_layers; ++l) info_.moe_layers.push_back(static_cast<std::uint16_t>(l));
    first_.push_back(0);
    for (const std::uint32_t n : lengths_) first_.push_back(first_.back() + n);
  }

  [[nodiscard]] const TraceInfo& info() const override { return info_; }
  [[nodiscard]] std::uint32_t n_requests() const override { return static_cast<std::uint32_t>(lengths_.size()); }
  [[nodiscard]] RequestInfo request(RequestId r) const override {
    RequestInfo info;
    info.output_tokens = lengths_.at(r.value);
    return info;
  }
  void read(RequestId r, std::uint32_t begin, std::uint32_t end, std::uint32_t layer_begin, std::uint32_t layer_end, WantLogits,
            RoutingRows& out) override {
    out = {begin, end, layer_begin, layer_end, {}, {}, {}};
    const std::size_t k = info_.top_k, row = info_.moe_layers.size() * k;
    for (std::size_t t = first_[r.value] + begin; t < first_[r.value] + end; ++t) {
      for (std::size_t i = t * row + layer_begin * k; i < t * row + layer_end * k; ++i) {
        out.ids.push_back(ids_.at(i));
        if (!weights_.empty()) out.weights.push_back(weights_[i]);
      }
    }
  }

 private:
  TraceInfo info_;
  std::vector<std::uint32_t> lengths_;
  std::vector<std::size_t> first_;
  std::vector<std::uint16_t> ids_;
  std::vector<float> weights_;
};

}  // namespace moekv::test
