// BackendQkv: a generator's rows, made by the backend where it makes them and does so sooner; the same bits either way.
#pragma once

#include <memory>
#include <span>
#include <utility>

#include "device/backend.hpp"
#include "trace/qkv.hpp"

namespace moekv {

class BackendQkv final : public QkvSource {
 public:
  BackendQkv(std::shared_ptr<QkvSource> source, ModelShape shape, Backend& backend)
      : source_(std::move(source)), shape_(std::move(shape)), backend_(&backend) {}
  void keys_values(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts experts, float* k, float* v) override;
  void queries(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts experts, float* q) override;
  void rows(const ModelShape& shape, LayerId layer, TokenExperts experts, std::span<const generate::RowRange> ranges, float* k, float* v,
            float* q) override;
  bool list_rows(LayerId layer, TokenExperts experts, RowList& list) override { return source_->list_rows(layer, experts, list); }
  void sink_logits(LayerId layer, float* out) override { source_->sink_logits(layer, out); }

 private:
  /// False where the backend or the source leaves the rows to the source. Ranges may be without keys, or without queries.
  bool by_backend(LayerId layer, TokenExperts experts, std::span<const generate::RowRange> ranges, float* k, float* v, float* q);

  std::shared_ptr<QkvSource> source_;
  ModelShape shape_;
  Backend* backend_;
};

}  // namespace moekv
