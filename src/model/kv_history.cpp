// Rows by request and layer.
#include "model/kv_history.hpp"

#include <algorithm>

#include "core/error.hpp"

namespace moekv {

void KvHistory::add(LayerId layer, RequestId r, std::span<const float> k, std::span<const float> v) {
  std::vector<Rows>& layers = requests_[r.value];
  layers.resize(decoder_->spec().layers.size());
  Rows& rows = layers[layer.value];
  rows.k.insert(rows.k.end(), k.begin(), k.end());
  rows.v.insert(rows.v.end(), v.begin(), v.end());
}

void KvHistory::keys_values(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts, float* k, float* v) {
  const Rows& rows = requests_.at(r.value)[layer.value];
  const std::size_t width = std::size_t{decoder_->spec().n_kv_heads} * decoder_->spec().head_dim;
  MOEKV_EXPECT(end * width <= rows.k.size());
  std::copy_n(&rows.k[begin * width], (end - begin) * width, k);
  std::copy_n(&rows.v[begin * width], (end - begin) * width, v);
}

void KvHistory::queries(LayerId, RequestId, std::uint32_t, std::uint32_t, TokenExperts, float*) { MOEKV_EXPECT(false); }

void KvHistory::sink_logits(LayerId layer, float* out) {
  const std::vector<float>& sinks = decoder_->sinks(layer.value);
  std::copy(sinks.begin(), sinks.end(), out);
}

}  // namespace moekv
