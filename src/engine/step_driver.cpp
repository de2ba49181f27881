// Keys, q, k and v of a step from the rows of a trace.
#include "engine/step_driver.hpp"

namespace moekv {

void StepDriver::route(const ReplayLayer& layer) {
  router_.route(layer);
  count_hidden_states(layer);
  if (query_router_ == nullptr) {
    router_.keys(layer, keys_);
    return;
  }
  keys_.clear();
  if (layer.key_row < 0) return;
  const ModelShape& model = geometry_->spec().model;
  q32_.resize(tokens_.size() * model.n_heads * model.d_k);
  std::size_t token = 0;
  for (const BatchItem& item : items_) {
    qkv_->queries(layer.layer, item.request, item.begin, item.end, {}, &q32_[token * model.n_heads * model.d_k]);
    token += item.end - item.begin;
  }
  choose_by_query(q32_);
}

void StepDriver::fill(const ReplayLayer& layer) {
  const ModelShape& model = geometry_->spec().model;
  ranges_.clear();
  std::uint64_t token = 0, query = 0;
  for (const BatchItem& item : items_) {
    ranges_.push_back({item.request.value, item.begin, item.end, item.query_begin, token, query});
    token += item.end - item.begin;
    query += item.end - item.query_begin;
  }
  k32_.resize(token * model.n_kv_heads * model.d_k);
  v32_.resize(model.mla() ? 0 : token * model.n_kv_heads * model.d_v);
  q32_.resize(query * model.n_heads * model.d_k);
  const TokenExperts experts{keys_.empty() ? nullptr : keys_.data(), geometry_->top_k()};
  qkv_->rows(model, layer.layer, experts, ranges_, k32_.data(), v32_.data(), q32_.data());
}

}  // namespace moekv
