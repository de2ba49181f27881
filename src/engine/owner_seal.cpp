// What sealing takes from the layer step besides the pages: the newest queries, for codecs that fit their tables to them.
#include "engine/owner.hpp"

namespace moekv {

void Owner::attach_queries(SealOp& op, Rank rank, RequestId request, std::uint32_t first_head) const {
  constexpr std::uint32_t most = 32;
  const HeadSlice slice = geometry_->slice(rank);
  const std::size_t row = std::size_t{geometry_->spec().model.d_k} * geometry_->payload_bytes();
  op.q_stride = slice.q_count * row;
  op.q_group = slice.group();
  for (const Query& query : queries_) {  // of one request they lie one after another
    if (query.rank != rank || query.header->request != request.value) continue;
    const std::byte* q = query.q + std::size_t{first_head} * slice.group() * row;
    const bool follows = op.q != nullptr && op.q + op.n_q * op.q_stride == q;
    if (!follows) op.q = q;
    op.n_q = follows ? op.n_q + 1 : 1;
  }
  if (op.n_q > most) {
    op.q += (op.n_q - most) * op.q_stride;
    op.n_q = most;
  }
}

}  // namespace moekv
