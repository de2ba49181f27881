// Ranges without keys, or without queries, ask for one kind of rows alone.
#include "engine/backend_qkv.hpp"

namespace moekv {

bool BackendQkv::by_backend(LayerId layer, TokenExperts experts, std::span<const generate::RowRange> ranges, float* k, float* v, float* q) {
  RowList list;
  if (!source_->list_rows(layer, experts, list)) return false;
  const std::uint32_t d_v = shape_.mla() ? 0 : shape_.d_v;
  if (!backend_->generate({list.planes,
                           list.rows,
                           ranges,
                           list.turns,
                           {shape_.n_kv_heads * shape_.d_k, shape_.n_kv_heads * d_v, shape_.n_heads * shape_.d_k},
                           {k, v, q}}))
    return false;
  backend_->sync();
  return true;
}

void BackendQkv::rows(const ModelShape& shape, LayerId layer, TokenExperts experts, std::span<const generate::RowRange> ranges, float* k, float* v,
                      float* q) {
  if (!by_backend(layer, experts, ranges, k, v, q)) source_->rows(shape, layer, experts, ranges, k, v, q);
}

void BackendQkv::keys_values(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts experts, float* k, float* v) {
  const generate::RowRange keys{r.value, begin, end, end, 0, 0};
  if (!by_backend(layer, experts, {&keys, 1}, k, v, nullptr)) source_->keys_values(layer, r, begin, end, experts, k, v);
}

void BackendQkv::queries(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts experts, float* q) {
  const generate::RowRange queries{r.value, end, end, begin, 0, 0};
  if (!by_backend(layer, experts, {&queries, 1}, nullptr, nullptr, q)) source_->queries(layer, r, begin, end, experts, q);
}

}  // namespace moekv
