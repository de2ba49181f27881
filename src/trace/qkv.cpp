// Rows of many ranges from a source that makes them range by range.
#include "trace/qkv.hpp"

namespace moekv {

void QkvSource::rows(const ModelShape& shape, LayerId layer, TokenExperts experts, std::span<const generate::RowRange> ranges, float* k, float* v,
                     float* q) {
  const std::size_t k_width = std::size_t{shape.n_kv_heads} * shape.d_k, q_width = std::size_t{shape.n_heads} * shape.d_k;
  const std::size_t v_width = shape.mla() ? 0 : std::size_t{shape.n_kv_heads} * shape.d_v;
  for (const generate::RowRange& range : ranges) {
    const RequestId request(range.request);
    const TokenExperts own = experts.from(range.first_token);
    if (k != nullptr && range.begin < range.end)
      keys_values(layer, request, range.begin, range.end, own, k + range.first_token * k_width, v + range.first_token * v_width);
    if (q != nullptr && range.query_begin < range.end)
      queries(layer, request, range.query_begin, range.end, own.from(range.query_begin - range.begin), q + range.first_query * q_width);
  }
}

}  // namespace moekv
