// Owner, read sets: which pages of a group and which of their slots a query reads.
#include <algorithm>
#include <bit>

#include "engine/owner.hpp"

namespace moekv {

bool Owner::slot_is_read(const Shard& shard, std::size_t i, const ReadFilter& filter) {
  const std::span<const std::uint64_t> wanted = filter.wanted;
  const CopyRule rule = geometry_->spec().read.copies;
  const bool copies = copies_matter_ && layer_by_expert_;
  std::uint32_t read = wanted.empty() ? ~0U : 0U;
  if (!wanted.empty()) {
    const auto experts = shard.experts(i);
    const auto copy_of = shard.copy_of(i);
    for (std::size_t j = 0; j < experts.size(); ++j) {
      if (experts[j] != ExpertId::invalid && (wanted[experts[j] / 64] >> (experts[j] % 64) & 1U) != 0) read |= 1U << (copies ? copy_of[j] : 0);
    }
    if (!copies) return read != 0;
    if ((read >> shard.copy(i) & 1U) == 0) return false;
  }
  if (!copies || rule == CopyRule::paper) return true;
  const std::uint32_t before = shard.smaller_copies(i) & read;
  if (rule == CopyRule::surviving) return (before & shard.alive_copies(i)) == 0;
  if (before != 0 && (before & shard.alive_copies(i)) == 0 && !filter.only_looks) counters_->step.masked_copies += 1;
  return before == 0;
}

std::uint64_t Owner::read_bits(const Query& query, const Shard& shard, std::uint32_t index, std::uint32_t w, const ReadFilter& filter) {
  const Page& page = shard.pages()[index];
  std::uint64_t bits = shard.live_word(page, index, w);
  if (filter.unblocked) bits &= ~shard.blocked_by(page, query.experts, w);
  if (filter.primary) bits &= shard.primary_words(index)[w];
  const bool in_range = page.min_position >= filter.low && page.max_position <= filter.high;
  const bool noted = query.header->probe != 0 && !filter.only_looks;
  if (in_range && !filter.by_slot && !noted) return bits;
  for (std::uint64_t rest = bits; rest != 0; rest &= rest - 1) {
    const auto slot = static_cast<std::uint32_t>(w * 64 + static_cast<std::uint32_t>(std::countr_zero(rest)));
    const std::size_t i = shard.at(index, slot);
    const bool keep = shard.position(i) >= filter.low && shard.position(i) <= filter.high && (!filter.by_slot || slot_is_read(shard, i, filter));
    if (!keep) bits &= ~(1ULL << (slot % 64));
    if (keep && noted) probe_words_.push_back(shard.position(i));
  }
  return bits;
}

std::uint32_t Owner::read_page(const Query& query, Shard& shard, std::uint32_t index, const ReadFilter& filter, ReadTally& tally) {
  Page& page = shard.pages()[index];
  if (page.min_position > filter.high || page.max_position < filter.low) return 0;
  page.touched_step = static_cast<std::uint32_t>(step_);
  tally.scanned += page.live;
  const std::size_t first_word = masks_.size();
  const bool all = page.live == page.used && page.min_position >= filter.low && page.max_position <= filter.high && !filter.by_slot &&
                   !filter.primary && !filter.unblocked && query.header->probe == 0;
  std::uint32_t read = all ? page.used : 0;
  for (std::uint32_t w = 0; !all && w * 64 < page.used; ++w) {
    const std::uint64_t bits = read_bits(query, shard, index, w, filter);
    if (payload_) masks_.push_back(bits);
    read += static_cast<std::uint32_t>(std::popcount(bits));
  }
  if (read == 0 || read == page.used) masks_.resize(first_word);
  if (read == 0) return 0;
  if (demotes_) shard.need(index, step_);
  page.used_step = static_cast<std::uint32_t>(step_);
  const std::uint64_t whole = geometry_->head_bytes(page.sealed, page.page_class);
  tally.bytes += page.used == geometry_->page_slots() ? whole : whole * page.used / geometry_->page_slots();
  if (payload_) {
    reads_.push_back({page.block, page.used, read == page.used ? PageRead::all_slots : static_cast<std::uint32_t>(first_word)});
    task_pages_.push_back(index);
  }
  return read;
}

std::uint32_t Owner::read_pages(const Query& query, Shard& shard, std::span<const std::uint32_t> pages, const ReadFilter& filter, ReadTally& tally) {
  std::uint32_t read = 0;
  for (std::size_t p = 0; p < std::min(pages.size(), prefetch_distance); ++p) shard.prefetch(pages[p]);
  for (std::size_t p = 0; p < pages.size(); ++p) {
    if (p + prefetch_distance < pages.size()) shard.prefetch(pages[p + prefetch_distance]);
    read += read_page(query, shard, pages[p], filter, tally);
  }
  return read;
}

bool Owner::reads_as_one(const Chain& chain, const ReadFilter& filter) const {
  return sums_chains_ && !filter.by_slot && filter.low == 0 && chain.newest <= filter.high && chain.one_begun;
}

std::uint32_t Owner::read_chain(const Query& query, Shard& shard, const Chain& chain, const ReadFilter& filter, ReadTally& tally) {
  const Blockers::Reads all{chain.alive, static_cast<std::int64_t>(chain.pages.size())};
  const Blockers::Reads reads = filter.unblocked ? chain.blockers.reads(query.experts) : filter.primary ? chain.primary : all;
  const std::uint64_t whole = geometry_->head_bytes(false, 0);
  tally.scanned += chain.alive;
  tally.bytes += whole * static_cast<std::uint64_t>(reads.pages);
  if (chain.open != no_index) {
    Page& open = shard.pages()[chain.open];
    open.touched_step = static_cast<std::uint32_t>(step_);
    bool is_read = false;
    for (std::uint32_t w = 0; w * 64 < open.used; ++w) is_read = is_read || read_bits(query, shard, chain.open, w, filter) != 0;
    if (is_read) tally.bytes -= whole - whole * open.used / geometry_->page_slots();
  }
  return static_cast<std::uint32_t>(reads.entries);
}

std::uint32_t Owner::read_group(const Query& query, Shard& shard, const Group& group, const ReadFilter& filter, ReadTally& tally) {
  if (chooses(query)) return read_pages(query, shard, take_choice(query, shard, group), filter, tally);
  std::uint32_t read = 0;
  for (const std::uint32_t c : group.order) {
    const Chain& chain = group.chains[c];
    if (!may_read(chain, filter)) continue;
    if (query.header->probe == 0 && reads_as_one(chain, filter)) {
      read += read_chain(query, shard, chain, filter, tally);
      continue;
    }
    if (filter.unblocked) chain.blockers.prefetch(query.experts);
    read += read_pages(query, shard, chain.pages, filter, tally);
  }
  return read;
}

Owner::ReadFilter Owner::filter_of(const Query& query) const {
  const LayerShape& shape = geometry_->layers()[layer_].shape;
  const bool routed = geometry_->spec().read.scope == ReadScope::routed && geometry_->layers()[layer_].key_row >= 0;
  const bool copies = copies_matter_ && layer_by_expert_;
  const CopyRule rule = geometry_->spec().read.copies;
  ReadFilter filter;
  filter.high = query.header->position;
  filter.low = shape.attention == AttentionKind::window && filter.high + 1 > shape.window_tokens ? filter.high + 1 - shape.window_tokens : 0;
  if (routed) filter.wanted = query_words_;
  // The usual routed read: the chain was chosen by an expert that the query wants, so a slot is read unless an earlier copy is read elsewhere.
  filter.unblocked = routed && copies && rule == CopyRule::surviving && geometry_->chains_are_exact();
  filter.by_slot = !filter.unblocked && (routed || (copies && rule == CopyRule::hash));
  filter.primary = copies && !filter.by_slot && !filter.unblocked;
  return filter;
}

bool Owner::may_read(const Chain& chain, const ReadFilter& filter) const {
  if (filter.wanted.empty() || !geometry_->chains_are_exact()) return true;
  return chain.expert.valid() && (filter.wanted[chain.expert.value / 64] >> (chain.expert.value % 64) & 1U) != 0;
}

std::span<const std::uint32_t> Owner::pages_of(const Group& group, const Query& query, const ReadFilter& filter) {
  group_pages_.clear();
  for (const std::uint32_t c : group.order) {
    const Chain& chain = group.chains[c];
    if (!may_read(chain, filter)) continue;
    if (filter.unblocked) chain.blockers.prefetch(query.experts);
    group_pages_.insert(group_pages_.end(), chain.pages.begin(), chain.pages.end());
  }
  return group_pages_;
}

void Owner::count_read(const Shard& shard, std::uint32_t shard_index, std::uint32_t wanted, std::int64_t scanned, std::int64_t bytes) {
  counters_->step.entries_wanted += wanted;
  counters_->layers[layer_].entries_wanted += wanted;
  counters_->step.entries_scanned += scanned;
  counters_->layers[layer_].entries_scanned += scanned;
  counters_->shard_load[shard_index].load += scanned;
  counters_->rank_load[shard.rank().value - first_.value].load += scanned;
  counters_->load_in_layer(Entity::shard, layer_, shard_index, scanned);
  counters_->load_in_layer(Entity::rank, layer_, shard.rank().value - first_.value, scanned);
  counters_->step.attended_bytes += bytes;
  counters_->page_bytes_moved(shard.rank(), bytes);
}
}  // namespace moekv
