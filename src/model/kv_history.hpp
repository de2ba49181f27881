// KvHistory: the keys and values that a model made, kept in fp32 for the exact attention that probes compare with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "model/decoder.hpp"
#include "trace/qkv.hpp"

namespace moekv {

/// Holds the requests of one process, each until it is forgotten. Positions of a request come in order.
class KvHistory final : public QkvSource {
 public:
  explicit KvHistory(const Decoder& decoder) : decoder_(&decoder) {}

  /// Adds rows of the next positions: k and v [tokens][n_kv_heads][head_dim].
  void add(LayerId layer, RequestId r, std::span<const float> k, std::span<const float> v);
  void forget(RequestId r) { requests_.erase(r.value); }
  [[nodiscard]] std::size_t n_requests() const { return requests_.size(); }

  void keys_values(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts, float* k, float* v) override;
  /// Queries are not kept: never called.
  void queries(LayerId, RequestId, std::uint32_t, std::uint32_t, TokenExperts, float*) override;
  void sink_logits(LayerId layer, float* out) override;

 private:
  struct Rows {
    std::vector<float> k, v;
  };
  const Decoder* decoder_;
  std::unordered_map<std::uint32_t, std::vector<Rows>> requests_;  // request -> [layers]
};

}  // namespace moekv
