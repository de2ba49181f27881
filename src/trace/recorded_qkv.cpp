// q, k and v as a trace recorded them; the learned sink logits, which no trace holds, come from the generator.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/error.hpp"
#include "trace/qkv.hpp"

namespace moekv {
namespace {

class RecordedQkv final : public QkvSource {
 public:
  RecordedQkv(TraceSource& trace, ModelShape shape) : trace_(trace), shape_(std::move(shape)) {}

  void keys_values(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts, float* k, float* v) override {
    load(layer, r, begin, end);
    std::copy(kv_.k.begin(), kv_.k.end(), k);
    if (!shape_.mla()) std::copy(kv_.v.begin(), kv_.v.end(), v);
  }
  void queries(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts, float* q) override {
    load(layer, r, begin, end);
    std::copy(kv_.q.begin(), kv_.q.end(), q);
  }
  void sink_logits(LayerId layer, float* out) override {
    if (!generator_) generator_ = make_qkv_generator(GeneratorSpec{}, shape_);
    generator_->sink_logits(layer, out);
  }

 private:
  struct Range {
    LayerId layer;
    RequestId request;
    std::uint32_t begin = 0, end = 0;
    friend bool operator==(const Range&, const Range&) = default;
  };

  /// Keeps the last range: keys, values and queries of one are asked for one after the other.
  void load(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end) {
    const Range wanted{layer, r, begin, end};
    if (wanted == loaded_) return;
    loaded_ = {};
    trace_.read_kv(r, begin, end, layer, kv_);
    loaded_ = wanted;
  }

  TraceSource& trace_;
  ModelShape shape_;
  RecordedKv kv_;
  Range loaded_;
  std::unique_ptr<QkvSource> generator_;
};

}  // namespace

std::unique_ptr<QkvSource> make_recorded_qkv(TraceSource& trace, const ModelShape& shape) {
  const TraceInfo& info = trace.info();
  const ModelShape& have = info.shape;
  if (info.kv_layers.empty()) throw UserError(info.path, "has no recorded q, k, v", "use the generator for q, k, v");
  const auto dims = [](const ModelShape& s) {
    return fmt::format("{} heads, {} KV heads, d_k {}, d_v {}, {}", s.n_heads, s.n_kv_heads, s.d_k, s.d_v, s.mla() ? "mla" : "gqa");
  };
  if (dims(have) != dims(shape)) {
    throw UserError(info.path, fmt::format("recorded q, k, v have {}, but the model has {}", dims(have), dims(shape)),
                    "use the model the trace was recorded with");
  }
  return std::make_unique<RecordedQkv>(trace, shape);
}

}  // namespace moekv
