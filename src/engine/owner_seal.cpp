// What sealing takes from the layer step besides the pages: the newest queries, for codecs that fit their tables to them; and what it does to the
// state of an eviction rule that scores reconstruction errors.
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

void Owner::note_raw(std::span<const SealOp> ops, std::span<const std::pair<std::uint32_t, std::uint32_t>> pages) {
  const ModelShape& model = geometry_->spec().model;
  const std::size_t width = std::size_t{model.d_k} + model.d_v;
  raw_rows_.clear();
  for (std::size_t i = 0; i < ops.size(); ++i) {
    const std::uint32_t n_heads = heads_of(shards_[pages[i].first], pages[i].second);
    for (std::uint32_t slot = 0; slot < ops[i].n_slots; ++slot) {
      for (std::uint32_t head = 0; head < n_heads; ++head) {
        raw_rows_.resize(raw_rows_.size() + width);
        float* row = &raw_rows_[raw_rows_.size() - width];
        backend_->read_row(ops[i].from, head, slot, row, row + model.d_k);
      }
    }
  }
}

void Owner::score_errors(std::span<const SealOp> ops, std::span<const std::pair<std::uint32_t, std::uint32_t>> pages) {
  const ModelShape& model = geometry_->spec().model;
  const std::size_t width = std::size_t{model.d_k} + model.d_v;
  std::vector<float> decoded(width);
  const float* raw = raw_rows_.data();
  for (std::size_t i = 0; i < ops.size(); ++i) {
    Shard& s = shards_[pages[i].first];
    const std::uint32_t n_heads = heads_of(s, pages[i].second);
    for (std::uint32_t slot = 0; slot < ops[i].n_slots; ++slot) {
      float off = 0, all = 0;
      for (std::uint32_t head = 0; head < n_heads; ++head, raw += width) {
        backend_->read_row(ops[i].to, head, slot, decoded.data(), decoded.data() + model.d_k);
        for (std::size_t c = 0; c < (model.mla() ? model.d_k : width); ++c) {
          off += (decoded[c] - raw[c]) * (decoded[c] - raw[c]);
          all += raw[c] * raw[c];
        }
      }
      s.state(s.at(pages[i].second, slot)) = {all > 0 ? off / all : 0.0F, 0};
    }
    const auto bytes = static_cast<std::int64_t>(geometry_->raw_format(n_heads).block_bytes() + geometry_->sealed_format(n_heads).block_bytes());
    counters_->step.scoring_bytes += bytes;
    counters_->page_bytes_read(s.rank(), bytes);
  }
}

std::uint32_t Owner::heads_of(const Shard& shard, std::uint32_t page) const {
  return geometry_->head_group_width(shard.rank(), shard.groups()[shard.pages()[page].group].head_group);
}

}  // namespace moekv
