// Owner, read-set selection: what each query may read is offered page by page; which pages it then reads comes from the rule of `read.select`.
#include <algorithm>
#include <bit>

#include "engine/owner.hpp"

namespace moekv {

bool Owner::chooses(const Query& query) const {
  const bool of_prompt = query.header->position < (*requests_)[RequestId(query.header->request)].prompt_tokens;
  return geometry_->selects_at(geometry_->layers()[layer_], of_prompt);
}

void Owner::offer_page(const Query& query, const Shard& shard, std::uint32_t index, const ReadFilter& filter) {
  const Page& page = shard.pages()[index];
  if (page.min_position > filter.high || page.max_position < filter.low) return;
  bool any = false;
  std::uint32_t newest = 0;
  for (std::uint32_t w = 0; w * 64 < page.used; ++w) {
    const std::uint64_t bits = read_bits(query, shard, index, w, filter);
    any = any || bits != 0;
    if (page.max_position <= choice_.newest()) continue;
    for (std::uint64_t rest = bits; rest != 0; rest &= rest - 1) {
      newest = std::max(newest, shard.position(shard.at(index, w * 64 + static_cast<std::uint32_t>(std::countr_zero(rest)))));
    }
  }
  if (any) choice_.offer(index, page.block, newest);
}

void Owner::choose_pages() {
  const Placement& placement = geometry_->placement();
  choice_.clear();
  bool any = false;
  for (const Query& query : queries_) {
    if (!chooses(query)) continue;
    any = true;
    note_experts(query);
    ReadFilter filter = filter_of(query);
    filter.only_looks = true;
    const HeadSlice slice = geometry_->slice(query.rank);
    for (std::uint32_t s = placement.first_shard(query.rank.value); s < placement.first_shard(query.rank.value + 1); ++s) {
      Shard& owner = shard(ShardId(s));
      for (std::uint32_t hg = 0; hg < geometry_->n_head_groups(query.rank); ++hg) {
        const Group* group = owner.find(RequestId(query.header->request), layer_, hg);
        if (group == nullptr) continue;
        const auto row = static_cast<std::uint32_t>(&query - queries_.data());
        choice_.begin({0, 0, row, hg * geometry_->heads_per_group() * slice.group(), geometry_->head_group_width(query.rank, hg), slice.group()});
        for (const std::uint32_t page : pages_of(*group, query, filter)) offer_page(query, owner, page, filter);
      }
    }
  }
  if (!any) return;
  ScoreBatch rows{};
  rows.q = q_rows_.data();
  rows.q_format = geometry_->spec().payload.element;
  rows.q_row_heads = q_row_heads_;
  rows.d_k = geometry_->spec().model.d_k;
  choice_.decide(*backend_, rows);
}

std::span<const std::uint32_t> Owner::take_choice(const Query& query, const Shard& shard, const Group& group) {
  const ReadChoice::Chosen chosen = choice_.next();
  StepRecord& count = counters_->step;
  count.pages_considered += chosen.n_offered;
  count.pages_selected += static_cast<std::int64_t>(chosen.pages.size());
  if (!chosen.scored) return chosen.pages;
  const std::uint32_t width = geometry_->head_group_width(shard.rank(), group.head_group);
  const auto bytes = static_cast<std::int64_t>(chosen.n_offered * geometry_->raw_format(width).bounds_bytes());
  count.bounds_bytes_read += bytes;
  counters_->page_bytes_moved(shard.rank(), bytes);
  for (const std::uint32_t p : chosen.pages) {
    const Page& page = shard.pages()[p];
    counters_->digest.add({step_, geometry_->layers()[layer_].layer.value, Decision::select, group.request.value, query.header->position,
                           group.chains[page.chain].expert.value, shard.id().value << 8 | group.head_group, page.min_position});
  }
  return chosen.pages;
}

}  // namespace moekv
