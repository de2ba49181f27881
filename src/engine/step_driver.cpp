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

void StepDriver::list_ranges() {
  ranges_.clear();
  n_tokens_ = n_queries_ = 0;
  for (const BatchItem& item : items_) {
    ranges_.push_back({item.request.value, item.begin, item.end, item.query_begin, n_tokens_, n_queries_});
    n_tokens_ += item.end - item.begin;
    n_queries_ += item.end - item.query_begin;
  }
}

void StepDriver::make_rows(const ReplayLayer& layer, WantQueries queries) {
  const ModelShape& model = geometry_->spec().model;
  k32_.resize(n_tokens_ * model.n_kv_heads * model.d_k);
  v32_.resize(model.mla() ? 0 : n_tokens_ * model.n_kv_heads * model.d_v);
  const TokenExperts experts{keys_.empty() ? nullptr : keys_.data(), geometry_->top_k()};
  if (queries == WantQueries::no) {
    for (generate::RowRange& range : ranges_) range.query_begin = range.end;
    return qkv_->rows(model, layer.layer, experts, ranges_, k32_.data(), v32_.data(), nullptr);
  }
  q32_.resize(n_queries_ * model.n_heads * model.d_k);
  qkv_->rows(model, layer.layer, experts, ranges_, k32_.data(), v32_.data(), q32_.data());
}

void StepDriver::fill(const ReplayLayer& layer) {
  list_ranges();
  make_rows(layer, WantQueries::yes);
}

void StepDriver::find_kept(const ReplayLayer& layer) {
  const ElementFormat element = geometry_->spec().payload.element;
  key_rows_ = {KeptInputs::Kind::keys, element, layer.layer, std::move(key_rows_.tokens)};
  query_rows_ = {KeptInputs::Kind::queries, element, layer.layer, std::move(query_rows_.tokens)};
  key_rows_.tokens.clear();
  query_rows_.tokens.clear();
  for (const generate::RowRange& range : ranges_) {
    key_rows_.tokens.push_back({range.request, range.begin, range.end});
    if (range.query_begin < range.end) query_rows_.tokens.push_back({range.request, range.query_begin, range.end});
  }
  kept_keys_ = inputs_->find(key_rows_);
  kept_queries_ = inputs_->find(query_rows_);
}

std::byte* StepDriver::room_for(const KeptInputs::Rows& rows, std::size_t n_bytes, std::shared_ptr<const std::byte[]>& kept,
                                std::vector<std::byte>& own) {
  if (const std::shared_ptr<std::byte[]> room = inputs_->add(rows, n_bytes)) {
    kept = room;
    return room.get();
  }
  own.resize(n_bytes);
  return own.data();
}

void StepDriver::make_payload(const ReplayLayer& layer, LayerInput& input) {
  if (inputs_ == nullptr) return Driver::make_payload(layer, input);
  list_ranges();
  find_kept(layer);
  const bool queries = n_queries_ > 0 && kept_queries_ == nullptr;
  // Where queries are made, so are the keys that they lean towards: made with them, they are made once.
  if (kept_keys_ == nullptr || queries) make_rows(layer, queries ? WantQueries::yes : WantQueries::no);
  const ModelShape& model = geometry_->spec().model;
  const std::size_t key_bytes = payload_bytes(n_tokens_ * model.n_kv_heads * model.d_k);
  input.k = kept_keys_.get();
  if (input.k == nullptr) {
    std::byte* room = room_for(key_rows_, key_bytes + payload_bytes(v32_.size()), kept_keys_, k_);
    convert(k32_, room);
    convert(v32_, room + key_bytes);
    input.k = room;
  }
  input.v = model.mla() ? nullptr : input.k + key_bytes;
  input.q = kept_queries_.get();
  probe_q_ = {};
  if (!queries) return;
  probe_q_ = q32_;
  std::byte* room = room_for(query_rows_, payload_bytes(q32_.size()), kept_queries_, q_);
  convert(q32_, room);
  input.q = room;
}

}  // namespace moekv
