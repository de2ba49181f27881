// Keys, q, k and v of a step from the rows of a trace.
#include "engine/step_driver.hpp"

#include "engine/backend_qkv.hpp"

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

bool StepDriver::fill_together(const ReplayLayer& layer) {
  std::vector<generate::RowRange> ranges;
  std::uint64_t token = 0, query = 0;
  for (const BatchItem& item : items_) {
    ranges.push_back({item.request.value, item.begin, item.end, item.query_begin, token, query});
    token += item.end - item.begin;
    query += item.end - item.query_begin;
  }
  const TokenExperts experts{keys_.empty() ? nullptr : keys_.data(), geometry_->top_k()};
  return generate_rows(cache_->backend(), *qkv_, geometry_->spec().model, layer.layer, experts, ranges, k32_.data(), v32_.data(), q32_.data());
}

void StepDriver::fill(const ReplayLayer& layer) {
  const ModelShape& model = geometry_->spec().model;
  const std::uint32_t top_k = keys_.empty() ? 0 : geometry_->top_k();
  std::size_t n_queries = 0;
  for (const HomeToken& t : tokens_) n_queries += t.query ? 1 : 0;
  k32_.resize(tokens_.size() * model.n_kv_heads * model.d_k);
  v32_.resize(model.mla() ? 0 : tokens_.size() * model.n_kv_heads * model.d_v);
  q32_.resize(n_queries * model.n_heads * model.d_k);
  if (fill_together(layer)) return;
  std::size_t token = 0, query = 0;
  for (const BatchItem& item : items_) {
    const std::uint32_t n = item.end - item.begin;
    const auto experts = [&](std::size_t first) { return TokenExperts{top_k > 0 ? &keys_[first * top_k] : nullptr, top_k}; };
    qkv_->keys_values(layer.layer, item.request, item.begin, item.end, experts(token), &k32_[token * model.n_kv_heads * model.d_k],
                      model.mla() ? nullptr : &v32_[token * model.n_kv_heads * model.d_v]);
    if (item.query_begin < item.end) {
      const std::uint32_t skipped = item.query_begin - item.begin;
      qkv_->queries(layer.layer, item.request, item.query_begin, item.end, experts(token + skipped), &q32_[query * model.n_heads * model.d_k]);
    }
    token += n;
    query += item.end - item.query_begin;
  }
}

}  // namespace moekv
