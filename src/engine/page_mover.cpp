// Finds the chains that must leave, packs them, unpacks what came, and counts both sides.
#include "engine/page_mover.hpp"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "core/rng.hpp"

namespace moekv {
namespace {

std::int64_t& count(ByteCounts& bytes, ByteClass kind) { return bytes[static_cast<std::size_t>(kind)]; }

}  // namespace

PageMover::PageMover(const Geometry& geometry, Backend& backend, Transport& transport, Counters& counters, const RequestTable& requests,
                     std::span<const int> process_of_rank)
    : geometry_(&geometry),
      backend_(&backend),
      transport_(&transport),
      counters_(&counters),
      requests_(&requests),
      process_of_rank_(process_of_rank),
      payload_(backend.has_payload()) {}

std::size_t PageMover::block_bytes(const Shard& shard, std::uint32_t head_group, const Page& page) const {
  const std::uint32_t width = geometry_->head_group_width(shard.rank(), head_group);
  return (page.sealed ? geometry_->sealed_format(width, page.page_class) : geometry_->raw_format(width)).block_bytes();
}

std::size_t PageMover::table_bytes(const Shard& shard, std::uint32_t head_group) const {
  if (!geometry_->compressed() || geometry_->tables_of_run()) return 0;
  return geometry_->sealed_format(geometry_->head_group_width(shard.rank(), head_group), 0).shared_bytes();
}

ShardId PageMover::target_of(const Shard& shard, const Group& group, const Chain& chain) const {
  const Placement& placement = geometry_->placement();
  const ReplayLayer& layer = geometry_->layers()[group.layer];
  if (!chain.expert.valid() || geometry_->layout(layer) != Layout::expert) return shard.id();
  if (placement.is_shadowed(layer.layer.value, chain.expert)) return placement.home_shard(group.home, group.request);
  std::vector<ShardId> replicas;
  geometry_->for_each_home_of(layer, chain.expert, [&](ShardId s) { replicas.push_back(s); });
  if (std::find(replicas.begin(), replicas.end(), shard.id()) != replicas.end()) return shard.id();
  return replicas[hash_words(placement.seed, 0x6DU, group.request.value, layer.layer.value, chain.expert.value) % replicas.size()];
}

std::vector<PageMover::Leaver> PageMover::find_leavers(std::vector<Shard>& shards) const {
  std::vector<Leaver> leavers;
  for (std::uint32_t s = 0; s < shards.size(); ++s) {
    for (std::uint32_t g = 0; g < shards[s].groups().size(); ++g) {
      const Group& group = shards[s].groups()[g];
      if (!group.in_use) continue;
      for (const std::uint32_t c : group.order) {
        const ShardId target = target_of(shards[s], group, group.chains[c]);
        if (target != shards[s].id()) leavers.push_back({geometry_->placement().owner(target).value, s, g, c, target});
      }
    }
  }
  const auto key = [&](const Leaver& l) {  // chains of a group stand in their order already
    const Group& group = shards[l.shard].groups()[l.group];
    return std::tuple(shards[l.shard].rank(), l.destination, l.shard, group.request, group.layer, group.head_group);
  };
  std::stable_sort(leavers.begin(), leavers.end(), [&](const Leaver& a, const Leaver& b) { return key(a) < key(b); });
  return leavers;
}

void PageMover::pack_chain(Shard& shard, const Leaver& leaver, std::vector<std::byte>& outbox, ByteCounts& bytes) {
  WireWriter out(outbox);
  const std::size_t begin = outbox.size();
  const Group& group = shard.groups()[leaver.group];
  const std::vector<std::uint32_t>& pages = group.chains[leaver.chain].pages;
  const std::size_t table = table_bytes(shard, group.head_group);
  ChainMove head = shard.describe_chain(leaver.group, leaver.chain, leaver.target);
  std::vector<std::uint32_t> numbers, with_tables;  // of the tables, and a page that has each
  std::size_t payload = 0, entries = 0;
  for (const std::uint32_t p : pages) {
    const Page& page = shard.pages()[p];
    payload += block_bytes(shard, group.head_group, page);
    entries += page.live;
    if (!page.sealed || table == 0) continue;
    if (!sent_tables_.insert({head.source, head.target, head.request, head.layer, head.head_group, page.table}).second) continue;
    numbers.push_back(page.table);
    with_tables.push_back(p);
  }
  head.n_tables = static_cast<std::uint32_t>(numbers.size());
  out.put(&head, 1);
  shard.pack_chain(leaver.group, leaver.chain, out);
  out.put(numbers.data(), numbers.size());
  payload += numbers.size() * table;
  count(bytes, ByteClass::headers) += static_cast<std::int64_t>(outbox.size() - begin);
  count(bytes, ByteClass::pages) += static_cast<std::int64_t>(payload);
  counters_->step.pages_moved += static_cast<std::int64_t>(pages.size());
  counters_->step.entries_moved += static_cast<std::int64_t>(entries);
  counters_->step.bytes_moved += static_cast<std::int64_t>(payload);
  if (leaver.destination != shard.rank().value)
    counters_->layers[group.layer].wire_bytes += static_cast<std::int64_t>(outbox.size() - begin + payload);
  moved_.push_back(head);
  if (!payload_) return;
  pack_blocks(shard, group, pages, with_tables, out.reserve(payload));
}

void PageMover::pack_blocks(const Shard& shard, const Group& group, const std::vector<std::uint32_t>& pages, const std::vector<std::uint32_t>& with_tables,
                            std::byte* at) {
  const std::size_t table = table_bytes(shard, group.head_group);
  std::vector<BlockOut> ops;
  for (const std::uint32_t p : pages) {
    const auto with = std::find(with_tables.begin(), with_tables.end(), p);
    std::byte* tables = with != with_tables.end() ? at + static_cast<std::size_t>(with - with_tables.begin()) * table : nullptr;
    ops.push_back({shard.pages()[p].block, nullptr, tables});
  }
  at += with_tables.size() * table;
  for (std::size_t i = 0; i < pages.size(); ++i) {
    ops[i].bytes = at;
    at += block_bytes(shard, group.head_group, shard.pages()[pages[i]]);
  }
  backend_->read_blocks(ops);
  backend_->sync();
}

void PageMover::pack_chains(Owner& owner, std::span<const Leaver> leavers) {
  for (std::size_t begin = 0; begin < leavers.size();) {
    const Rank source = owner.shards()[leavers[begin].shard].rank();
    const std::uint32_t destination = leavers[begin].destination;
    std::size_t end = begin;
    while (end < leavers.size() && leavers[end].destination == destination && owner.shards()[leavers[end].shard].rank() == source) ++end;
    std::vector<std::byte>& outbox = transport_->outbox(process_of_rank_[destination]);
    const MoveSegment segment{source.value, destination, static_cast<std::uint32_t>(end - begin), 0};
    WireWriter(outbox).put(&segment, 1);
    for (std::size_t i = begin; i < end; ++i) pack_chain(owner.shards()[leavers[i].shard], leavers[i], outbox, sent_[{source.value, destination}]);
    begin = end;
  }
  for (const Leaver& l : leavers) owner.shards()[l.shard].remove_chain(l.group, l.chain);
  for (Shard& shard : owner.shards()) shard.close_gaps();
}

void PageMover::tell_homes(Owner& owner, std::span<const ChainMove> moved) {
  const Placement& placement = geometry_->placement();
  const auto holds = [&](Rank rank, const ChainMove& m) {
    for (std::uint32_t s = placement.first_shard(rank.value); s < placement.first_shard(rank.value + 1); ++s) {
      for (std::uint32_t hg = 0; hg < geometry_->n_head_groups(rank); ++hg) {
        if (owner.shard(ShardId(s)).find(RequestId(m.request), m.layer, hg) != nullptr) return true;
      }
    }
    return false;
  };
  std::map<Pair, std::vector<RankMove>> words;
  std::set<std::array<std::uint32_t, 4>> told;  // source and target rank, request, layer
  for (const ChainMove& m : moved) {
    const Rank source = placement.owner(ShardId(m.source)), target = placement.owner(ShardId(m.target));
    if (!told.insert({source.value, target.value, m.request, m.layer}).second) continue;
    words[{source.value, m.home}].push_back({m.request, m.layer, target.value, holds(source, m) ? no_rank : source.value});
    if (source.value != m.home) counters_->layers[m.layer].wire_bytes += static_cast<std::int64_t>(sizeof(RankMove));
  }
  for (const auto& [pair, moves] : words) {
    WireWriter out(transport_->outbox(process_of_rank_[pair.second]));
    const MoveSegment segment{pair.first, pair.second, 0, static_cast<std::uint32_t>(moves.size())};
    out.put(&segment, 1);
    out.put(moves.data(), moves.size());
    count(sent_[pair], ByteClass::headers) += static_cast<std::int64_t>(moves.size() * sizeof(RankMove));
  }
}

void PageMover::write_blocks(Shard& shard, const ChainMove& head, std::span<const std::uint32_t> pages, std::span<const std::uint32_t> numbers,
                             WireReader& in) {
  const std::size_t table = table_bytes(shard, head.head_group);
  std::size_t payload = numbers.size() * table;
  for (const std::uint32_t p : pages) payload += block_bytes(shard, head.head_group, shard.pages()[p]);
  const auto bytes = in.take<std::byte>(payload_ ? payload : 0);
  for (const std::uint32_t n : numbers)
    landed_tables_[{head.source, head.target, head.request, head.layer, head.head_group, n}] = shard.number_tables();
  std::size_t at = numbers.size() * table;
  std::vector<BlockIn> ops;
  for (const std::uint32_t p : pages) {
    Page& page = shard.pages()[p];
    const auto number = std::find(numbers.begin(), numbers.end(), page.table);
    if (page.sealed && table > 0) page.table = landed_tables_.at({head.source, head.target, head.request, head.layer, head.head_group, page.table});
    if (!payload_) continue;
    const std::byte* tables = number != numbers.end() ? &bytes[static_cast<std::size_t>(number - numbers.begin()) * table] : nullptr;
    ops.push_back({page.block, &bytes[at], tables, shard.table_key(page)});
    at += block_bytes(shard, head.head_group, page);
  }
  if (!payload_) return;
  backend_->write_blocks(ops);
  backend_->sync();
}

void PageMover::land(Owner& owner, WireReader& in, ByteCounts& bytes, std::uint64_t step) {
  const std::size_t begin = in.at();
  const ChainMove& head = in.take<ChainMove>(1)[0];
  Shard& shard = owner.shard(ShardId(head.target));
  const auto shard_index = static_cast<std::uint32_t>(&shard - owner.shards().data());
  std::vector<std::uint32_t> pages;
  shard.unpack_chain(head, (*requests_)[RequestId(head.request)].total_tokens, in, pages);
  const auto numbers = in.take<std::uint32_t>(head.n_tables);
  count(bytes, ByteClass::headers) += static_cast<std::int64_t>(in.at() - begin);
  write_blocks(shard, head, pages, numbers, in);
  std::size_t entries = 0, payload = numbers.size() * table_bytes(shard, head.head_group);
  for (const std::uint32_t p : pages) {
    const Page& page = shard.pages()[p];
    entries += page.live;
    payload += block_bytes(shard, head.head_group, page);
    if (geometry_->compressed() && !page.sealed) owner.watch(shard_index, p);
  }
  count(bytes, ByteClass::pages) += static_cast<std::int64_t>(payload);
  counters_->step.pages_landed += static_cast<std::int64_t>(pages.size());
  counters_->step.entries_landed += static_cast<std::int64_t>(entries);
  counters_->digest.add({step, geometry_->layers()[head.layer].layer.value, Decision::move, head.request, static_cast<std::uint32_t>(entries), head.expert,
                         head.target << 8 | head.head_group, std::uint64_t{head.source} << 1 | head.side});
}

void PageMover::receive(Owner& owner, Home& home, std::uint64_t step) {
  PairBytes received;
  std::vector<RankMove> words;
  for (int p = 0; p < transport_->n_processes(); ++p) {
    WireReader in(transport_->received(p));
    while (!in.done()) {
      const MoveSegment segment = in.take<MoveSegment>(1)[0];
      ByteCounts& bytes = received[{segment.source, segment.destination}];
      for (std::uint32_t i = 0; i < segment.n_chains; ++i) land(owner, in, bytes, step);
      const auto told = in.take<RankMove>(segment.n_ranks);
      words.insert(words.end(), told.begin(), told.end());
      count(bytes, ByteClass::headers) += static_cast<std::int64_t>(segment.n_ranks * sizeof(RankMove));
    }
  }
  home.moved(words);
  for (const auto& [pair, bytes] : received) counters_->received(Rank(pair.first), Rank(pair.second), bytes);
}

std::int64_t PageMover::move(Owner& owner, Home& home, std::uint64_t step) {
  moved_.clear();
  sent_.clear();
  sent_tables_.clear();
  landed_tables_.clear();
  pack_chains(owner, find_leavers(owner.shards()));
  tell_homes(owner, moved_);
  const auto no_layer = static_cast<std::uint32_t>(counters_->layers.size());
  for (const auto& [pair, bytes] : sent_) counters_->sent(Rank(pair.first), Rank(pair.second), bytes, no_layer);
  transport_->exchange();
  receive(owner, home, step);
  return counters_->end_exchange();
}

}  // namespace moekv
