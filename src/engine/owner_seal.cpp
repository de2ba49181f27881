// What sealing takes from the layer step besides the pages: the newest queries, for codecs that fit their tables to them.
#include "engine/owner.hpp"

namespace moekv {

bool Owner::is_due_to_seal(const Shard& shard, const Page& page) const {
  const RequestTable::Row& row = (*requests_)[shard.groups()[page.group].request];
  const bool prompt_ends = row.step == step_ && row.length == row.prompt_tokens;
  const bool full = page.used == geometry_->page_slots() || (prompt_ends && page.used >= min_sealed_entries);
  return full && page.max_position + geometry_->spec().compression.raw_window_tokens < row.length;
}

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
