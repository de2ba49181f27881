// Gathers the rows of each step on process 0 and writes requests in ascending order, each when it is complete.
#include "model/trace_recorder.hpp"

#include <algorithm>
#include <cstring>

#include "core/error.hpp"

namespace moekv {
namespace {

/// What one item adds to a message: its rows follow, array by array.
struct Header {
  std::uint32_t request = 0, n_tokens = 0, prompt_tokens = 0, total_tokens = 0;
};

/// Calls f(array, values per token) for the arrays of a block, in a fixed order.
template <class Block, class F>
void for_each_array(Block& block, const DecoderSpec& m, std::size_t n_rows, F&& f) {
  const std::size_t layers = m.layers.size(), kv = layers * m.n_kv_heads * m.head_dim;
  f(block.ids, n_rows * m.gate.top_k);
  f(block.weights, n_rows * m.gate.top_k);
  f(block.logits, n_rows * m.gate.n_experts);
  f(block.q, layers * m.n_heads * m.head_dim);
  f(block.k, kv);
  f(block.v, kv);
}

std::size_t rows_of(const TokenSource& tokens) { return tokens.info().moe_layers.size(); }

WeightKind kind_of(const GateShape& gate) {
  if (gate.renormalise) return WeightKind::renorm;
  if (gate.score == ScoreFunction::softmax) return gate.order == ScoreOrder::post ? WeightKind::renorm : WeightKind::raw_softmax;
  return WeightKind::sigmoid;
}

/// Copies layer `index` of `n` into token-major rows: from [tokens][width] to [tokens][n][width].
template <class T>
void put_layer(std::span<const T> from, std::size_t n_tokens, std::size_t index, std::size_t n, std::vector<T>& to) {
  if (n_tokens == 0) return;
  const std::size_t width = from.size() / n_tokens;
  for (std::size_t t = 0; t < n_tokens; ++t) std::copy_n(&from[t * width], width, &to[(t * n + index) * width]);
}

}  // namespace

TraceRecorder::TraceRecorder(const std::string& path, const TokenSource& tokens, const DecoderSpec& model, KvType kv_type,
                             const std::string& generator, Transport& transport)
    : tokens_(&tokens), model_(model), transport_(&transport) {
  if (transport.process() != 0) return;
  WriterSpec spec;
  spec.info = tokens.info();
  spec.info.workload = "teacher-forced evaluation of a token file";
  spec.info.source = "moekv score";
  for (std::size_t l = 0; l < model.layers.size(); ++l) spec.info.kv_layers.push_back(static_cast<std::uint16_t>(l));
  spec.weight_kind = kind_of(model.gate);
  spec.generator = generator;
  spec.has_token_ids = true;
  spec.kv_type = kv_type;
  writer_ = std::make_unique<NativeWriter>(path, std::move(spec));
}

TraceRecorder::~TraceRecorder() = default;

void TraceRecorder::begin_step(std::span<const BatchItem> items) {
  items_.assign(items.begin(), items.end());
  n_tokens_ = 0;
  for (const BatchItem& item : items_) n_tokens_ += item.end - item.begin;
  for_each_array(step_, model_, rows_of(*tokens_), [&](auto& array, std::size_t width) { array.resize(n_tokens_ * width); });
}

void TraceRecorder::add_qkv(std::uint32_t layer, std::span<const float> q, std::span<const float> k, std::span<const float> v) {
  const std::size_t layers = model_.layers.size();
  put_layer(q, n_tokens_, layer, layers, step_.q);
  put_layer(k, n_tokens_, layer, layers, step_.k);
  put_layer(v, n_tokens_, layer, layers, step_.v);
}

void TraceRecorder::add_routing(std::uint32_t row, std::span<const float> logits, std::span<const std::uint16_t> ids,
                                std::span<const float> weights) {
  const std::size_t rows = rows_of(*tokens_);
  put_layer(logits, n_tokens_, row, rows, step_.logits);
  put_layer(ids, n_tokens_, row, rows, step_.ids);
  put_layer(weights, n_tokens_, row, rows, step_.weights);
}

void TraceRecorder::end_step() {
  std::vector<std::byte> message;
  const auto append = [&](const void* data, std::size_t bytes) {
    const auto* first = static_cast<const std::byte*>(data);
    message.insert(message.end(), first, first + bytes);
  };
  std::size_t token = 0;
  for (const BatchItem& item : items_) {
    const std::uint32_t n = item.end - item.begin;
    const Header header{item.request.value, n, item.prompt_tokens, item.total_tokens};
    append(&header, sizeof(header));
    for_each_array(step_, model_, rows_of(*tokens_),
                   [&](const auto& array, std::size_t width) { append(array.data() + token * width, n * width * sizeof(array[0])); });
    token += n;
  }
  const auto parts = transport_->gather(message);
  if (transport_->process() != 0) return;
  for (const auto& part : parts) take(part);
  write_complete();
}

void TraceRecorder::take(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    Header header;
    std::memcpy(&header, bytes.data(), sizeof(header));
    bytes = bytes.subspan(sizeof(header));
    const auto [it, added] = pending_.try_emplace(header.request);
    Pending& p = it->second;
    if (added) {
      p.info.prompt_tokens = header.prompt_tokens;
      p.info.output_tokens = header.total_tokens - header.prompt_tokens;
    }
    const auto inputs = tokens_->inputs(RequestId(header.request)).subspan(p.rows.n_tokens, header.n_tokens);
    p.rows.token_ids.insert(p.rows.token_ids.end(), inputs.begin(), inputs.end());
    p.rows.n_tokens += header.n_tokens;
    for_each_array(p.rows, model_, rows_of(*tokens_), [&](auto& array, std::size_t width) {
      const std::size_t before = array.size(), n = header.n_tokens * width;
      array.resize(before + n);
      if (n > 0) std::memcpy(array.data() + before, bytes.data(), n * sizeof(array[0]));
      bytes = bytes.subspan(n * sizeof(array[0]));
    });
  }
}

void TraceRecorder::write_complete() {
  while (!pending_.empty()) {
    const Pending& first = pending_.begin()->second;
    if (first.rows.n_tokens < first.info.total_tokens()) return;
    writer_->begin_request(first.info);
    writer_->append(first.rows);
    pending_.erase(pending_.begin());
  }
}

void TraceRecorder::finish() {
  if (writer_) writer_->finish();
}

}  // namespace moekv
