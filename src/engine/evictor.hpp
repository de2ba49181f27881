// Evictor: decides, after each step, what leaves a shard, and executes it when the next step admits (MODEL section 4).
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "engine/counters.hpp"
#include "engine/geometry.hpp"
#include "engine/group_scorer.hpp"
#include "engine/request_table.hpp"
#include "engine/shard.hpp"
#include "engine/turns.hpp"

namespace moekv {

class Evictor {
 public:
  /// `notify(shard, notice)` is called for each copy that leaves while other copies of its token may live.
  using Notify = std::function<void(Shard&, const Group&, std::size_t slot_index)>;
  Evictor(const Geometry& geometry, const RequestTable& requests, Backend& backend, Counters& counters, Notify notify);

  /// Applies the step's accesses to lookups and queues, in ascending (request, layer, expert, first position).
  void touch(Shard& shard, std::uint64_t step);
  /// Chooses victims of every list over its budget. Victims leave their queues now and their slots at `execute`.
  void decide(Shard& shard, std::uint64_t step) { decide(shard, step, no_index); }
  /// The same of groups of one replayed layer alone (no_index: of all); a list of the shard counts as one of every layer.
  void decide(Shard& shard, std::uint64_t step, std::uint32_t layer);
  /// Executes what `decide` chose. Returns the number of entries that left.
  std::uint64_t execute(Shard& shard);
  /// After a replan, with nothing due: decides and executes at once what moved pages and new budgets leave no room for. Returns as `execute`.
  std::uint64_t make_room(Shard& shard, std::uint64_t step);
  /// Live entries that could leave after the last step: neither protected nor pinned, in page units with all others of their page. 0 where nothing
  /// evicts.
  [[nodiscard]] std::int64_t evictable_entries(const Shard& shard) const;
  /// Between two steps: what is due with the next one.
  void transfer(StateStream& stream);

 private:
  struct Candidate {
    evict::UnitView view;
    std::uint32_t page, slot;  // slot no_index: the whole page
    float score = 0;
    bool late = false;  // entered in this step: goes after all others (action demote)
  };
  /// A list that is over its budget and what may leave it: turns [first, first + n) of turns_, of which about `expected` will.
  struct Choice {
    EvictList* list;
    Group* only;
    std::uint64_t target, excess, at_once;
    std::uint32_t first, n, expected;
  };
  struct Victim {
    std::uint32_t page, slot;  // slot no_index: the whole page
  };
  /// What a list may hold once its victims have left: the law that `execute` checks.
  struct Allowance {
    std::uint32_t group;  // no_index: the shard's list
    std::uint64_t units;
  };

  void touch_group(Shard& shard, Group& group, std::uint64_t step);
  /// Access dense: all groups of a request that has queries in the step, also those on ranks that no routed query reached.
  void mark_unreached(Shard& shard) const;
  /// Moves the thresholds of the lists whose pages were looked up in the step.
  void adapt_thresholds(Shard& shard);
  /// Lookups of one chain in one step, in shadow pages (which pages are themselves where none is dropped) and in entries.
  struct Lookups {
    std::int64_t lookups = 0, hits = 0;
    std::int64_t requested = 0, missed = 0;
    std::int64_t cold = 0;  // misses that are a replan's doing
  };
  Lookups look_up(Shard& shard, Group& group, Chain& chain);
  Lookups look_up_tiers(Shard& shard, Group& group, Chain& chain, std::uint64_t step);
  void note_reuse(const ReuseClock::Before& before, std::uint32_t pages) const;
  [[nodiscard]] std::int64_t evictable_in(const Shard& shard, const EvictableRange& range, std::uint32_t page) const;
  /// Whether the step accessed a page of the full history: its queries want an expert of it, or the layer has none and they read everything.
  [[nodiscard]] bool shadow_accessed(const Group& group, const Chain& chain, std::uint32_t shadow) const;
  /// Whether the step accessed a resident page, for sources that only see what is resident (mass, selected).
  [[nodiscard]] bool page_accessed(const Page& page) const;
  /// Tells the access log what `look_up` counts.
  void note_lookups(const Shard& shard, const Group& group, const Chain& chain) const;
  /// Moves the pages of a chain that lie in a list one behind the other to its end.
  static void move_run(evict::Queue& queue, std::uint8_t list, const Chain& chain);
  template <class Rule>
  void touch_pages(const Rule& rule, Shard& shard, Group& group, Chain& chain, std::uint64_t step);
  void touch_chain(Shard& shard, Group& group, Chain& chain, std::uint64_t step);
  [[nodiscard]] bool due(const EvictList& list, const Group* group, std::uint64_t step, double& target) const;
  [[nodiscard]] std::uint64_t usage(const EvictList& list) const { return in_budget_units(list.live, list.pages, list.bytes); }
  [[nodiscard]] std::uint64_t in_budget_units(std::uint64_t entries, std::uint64_t pages, std::uint64_t bytes) const;
  [[nodiscard]] std::uint64_t weight(const Shard& shard, const Page& page) const;
  [[nodiscard]] std::uint64_t weight_of(const Shard& shard, const Turn& turn) const {
    return turn.slot != no_index ? 1 : weight(shard, shard.pages()[turn.page]);
  }
  void decide_list(Shard& shard, EvictList& list, Group* only, std::uint64_t step);
  /// Makes the capacities of the dirty lists that share a budget and are together due, where the allocator does so during the run.
  void allot(Shard& shard, std::uint64_t step);
  void allot_lists(Shard& shard, const std::vector<Group*>& lists, std::uint64_t step);
  void make_capacities(Shard& shard, const std::vector<Group*>& lists, std::uint64_t step);
  void set_capacities(const std::vector<Group*>& lists, const allocate::Shares& shares, const allocate::Shares& made);
  /// Lists of the group's (request, shard) that share a budget with it, in order of (layer, head group).
  [[nodiscard]] std::vector<Group*> sharing(Shard& shard, const Group& group) const;
  /// CAKE's preference of each list's layer, divided over the lists of the layer.
  [[nodiscard]] std::vector<double> preferences(Shard& shard, const std::vector<Group*>& lists) const;
  /// Whether the list goes by its own capacity in this step.
  [[nodiscard]] bool has_capacity(const Group& group, std::uint64_t step) const;
  /// Sets the scores of units that compete with each other.
  void score(std::vector<Candidate>& units) const;
  /// A plan's own: what it gives to the host tier leaves whatever the budget.
  void take_planned(Shard& shard, Group* only, std::uint64_t step);
  std::uint64_t take_queue_pages(Shard& shard, EvictList& list, std::uint64_t excess, std::uint64_t step);
  std::uint64_t take_queue_tokens(Shard& shard, EvictList& list, std::uint64_t excess, std::uint64_t step);
  /// Notes the candidates of a list, whose victims take_gathered chooses together with those of other lists.
  void gather(Shard& shard, Choice choice, std::uint64_t step);
  void take_gathered(Shard& shard, std::uint64_t step);
  /// Dooms the first of the turns; the `n_known` that go first lie at the front. Returns what it could not free.
  std::uint64_t take_turns(Shard& shard, const Choice& choice, std::uint32_t n_known, std::uint64_t step);
  /// What a list holds once its victims have left, and what it holds too much.
  void settle(Shard& shard, const Group* only, std::uint64_t target, std::uint64_t at_once, std::uint64_t left);
  /// Notes a choice that rounding may turn: the scores of its last victim and of the next one.
  void count_close(float gone, float stays);
  /// Takes the pages whose turn it is in the queues of a list, in the order in which accesses apply.
  [[nodiscard]] std::vector<std::uint32_t> turns_of(Shard& shard, EvictList& list) const;
  [[nodiscard]] static bool enters(const Page& page, std::uint64_t step) { return page.entered_step == static_cast<std::uint32_t>(step); }
  [[nodiscard]] std::vector<Candidate> scored(Shard& shard, Group* only, std::uint64_t step);
  /// The units of a group that may go, without scores.
  void collect(Shard& shard, Group& group, std::uint64_t step, std::vector<Candidate>& out);
  /// What reading a page takes: the modelled time from its rank to the home rank.
  [[nodiscard]] float cost_of(const Shard& shard, const Group& group, const Page& page) const;
  [[nodiscard]] float state_of(Shard& shard, std::size_t slot_index) const;
  void doom_page(Shard& shard, std::uint32_t page, std::uint64_t step);
  void doom_slot(Shard& shard, std::uint32_t page, std::uint32_t slot, std::uint64_t step);
  void record(Shard& shard, std::uint32_t page, std::uint32_t slot, std::uint64_t step);
  using Standing = evict::Standing;  // permanent: a sink, never a victim while its request lives
  [[nodiscard]] EvictableRange evictable_range(const Group& group) const;
  /// `range`: of the page's group.
  [[nodiscard]] Standing page_standing(const Shard& shard, const Page& page, std::uint32_t index, const EvictableRange& range) const;

  const Geometry* geometry_;
  const RequestTable* requests_;
  Backend* backend_;
  Counters* counters_;
  Notify notify_;
  GroupScorer scorer_;
  std::uint64_t step_ = 0;
  std::uint32_t sinks_ = 0;
  bool queue_, demotes_, planned_, active_;
  allocate::Over sharing_ = allocate::Over::heads;     // which lists share a budget, for allocators that act during the run
  static constexpr std::size_t most_turns = 1U << 18;  // that are gathered, but for those of the last list
  std::vector<Turn> turns_;
  std::vector<Choice> choices_;
  std::vector<std::vector<Victim>> victims_;  // [shard index in the process]
  std::vector<std::vector<Allowance>> allowed_;
  std::uint32_t first_shard_ = 0;

 public:
  void set_shards(std::uint32_t first_shard, std::size_t n) {
    first_shard_ = first_shard;
    victims_.resize(n);
    allowed_.resize(n);
  }
};

}  // namespace moekv
