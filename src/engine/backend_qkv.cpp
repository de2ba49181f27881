// Ranges without keys, or without queries, ask for one kind of rows alone.
#include "engine/backend_qkv.hpp"

namespace moekv {

bool generate_rows(Backend& backend, QkvSource& source, const ModelShape& shape, LayerId layer, TokenExperts experts,
                   std::span<const generate::RowRange> ranges, float* k, float* v, float* q) {
  RowList list;
  if (!source.list_rows(layer, experts, list)) return false;
  const std::uint32_t d_v = shape.mla() ? 0 : shape.d_v;
  if (!backend.generate(
          {list.planes, list.rows, ranges, list.turns, {shape.n_kv_heads * shape.d_k, shape.n_kv_heads * d_v, shape.n_heads * shape.d_k}, {k, v, q}}))
    return false;
  backend.sync();
  return true;
}

void BackendQkv::keys_values(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts experts, float* k, float* v) {
  const generate::RowRange keys{r.value, begin, end, end, 0, 0};
  if (!generate_rows(*backend_, *source_, shape_, layer, experts, {&keys, 1}, k, v, nullptr))
    source_->keys_values(layer, r, begin, end, experts, k, v);
}

void BackendQkv::queries(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts experts, float* q) {
  const generate::RowRange queries{r.value, end, end, begin, 0, 0};
  if (!generate_rows(*backend_, *source_, shape_, layer, experts, {&queries, 1}, nullptr, nullptr, q))
    source_->queries(layer, r, begin, end, experts, q);
}

}  // namespace moekv
