// PageMover: takes chains whose expert left their shard to one that holds it now, in one exchange between two steps (MODEL section 2).
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "comm/transport.hpp"
#include "device/backend.hpp"
#include "engine/counters.hpp"
#include "engine/geometry.hpp"
#include "engine/home.hpp"
#include "engine/move.hpp"
#include "engine/owner.hpp"
#include "engine/request_table.hpp"

namespace moekv {

class PageMover {
 public:
  PageMover(const Geometry& geometry, Backend& backend, Transport& transport, Counters& counters, const RequestTable& requests,
            std::span<const int> process_of_rank);

  /// Collective. A chain (request, layer, head group, expert) stays where its shard holds a replica under the geometry's plan; else it goes to one of the
  /// replicas by a hash of request, layer and expert, or to the request's home shard when its expert is shadowed, whole: pages, shadow, policy
  /// state. Homes learn where entries lie. The caller settles the shards. Returns the modelled time of the exchange on this process.
  std::int64_t move(Owner& owner, Home& home, std::uint64_t step);

 private:
  struct Leaver {
    std::uint32_t destination, shard;  // rank; index among own shards
    std::uint32_t group, chain;
    ShardId target;
  };
  using Pair = std::pair<std::uint32_t, std::uint32_t>;  // source and destination rank
  using PairBytes = std::map<Pair, ByteCounts>;

  [[nodiscard]] std::vector<Leaver> find_leavers(std::vector<Shard>& shards) const;
  /// Where a chain belongs now; its own shard where that will do.
  [[nodiscard]] ShardId target_of(const Shard& shard, const Group& group, const Chain& chain) const;
  void pack_chains(Owner& owner, std::span<const Leaver> leavers);
  void pack_chain(Shard& shard, const Leaver& leaver, std::vector<std::byte>& outbox, ByteCounts& bytes);
  /// Copies the blocks of `pages` to `at`, the tables of `with_tables` before them.
  void pack_blocks(const Shard& shard, const Group& group, const std::vector<std::uint32_t>& pages, const std::vector<std::uint32_t>& with_tables,
                   std::byte* at);
  /// Tells the home ranks of the chains in `moved`, once a rank, request and layer.
  void tell_homes(Owner& owner, std::span<const ChainMove> moved);
  void receive(Owner& owner, Home& home, std::uint64_t step);
  void land(Owner& owner, WireReader& in, ByteCounts& bytes, std::uint64_t step);
  void write_blocks(Shard& shard, const ChainMove& head, std::span<const std::uint32_t> pages, std::span<const std::uint32_t> numbers, WireReader& in);
  /// Bytes of the blocks of pages, and of a table that sealed pages of this head group share (0: none, or the run's).
  [[nodiscard]] std::size_t block_bytes(const Shard& shard, std::uint32_t head_group, const Page& page) const;
  [[nodiscard]] std::size_t table_bytes(const Shard& shard, std::uint32_t head_group) const;

  const Geometry* geometry_;
  Backend* backend_;
  Transport* transport_;
  Counters* counters_;
  const RequestTable* requests_;
  std::span<const int> process_of_rank_;
  using Tables = std::array<std::uint32_t, 6>;  // source and target shard, request, layer, head group, number on the source
  std::set<Tables> sent_tables_;
  std::map<Tables, std::uint32_t> landed_tables_;  // their numbers on the target
  std::vector<ChainMove> moved_;
  PairBytes sent_;
  bool payload_;
};

}  // namespace moekv
