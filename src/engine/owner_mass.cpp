// Owner, attention mass: kept logits are normalised once home has merged their log-sum-exp, then reduced into the rule's state.
#include <algorithm>
#include <utility>

#include "core/math.hpp"
#include "engine/owner.hpp"

namespace moekv {

void Owner::keep_pending() {
  pending_.clear();
  if (!geometry_->needs_mass()) return;
  for (const Query& q : queries_) {
    if (q.n_read > 0) pending_.push_back({q.rank, (*requests_)[RequestId(q.header->request)].home, q.process, q.first_task, q.n_tasks});
  }
  pending_tasks_.swap(tasks_);
  pending_shards_.swap(task_shard_);
  pending_reads_.swap(reads_);
  pending_pages_.swap(task_pages_);
  pending_logits_.swap(logits_);
}

void Owner::apply_lse(std::span<const float> lse, Rank rank, int process) {
  const std::uint32_t heads = geometry_->slice(rank).q_count;
  for (std::size_t at = 0; at < lse.size(); at += heads) {
    const Pending& pending = pending_[pending_cursor_++];
    MOEKV_EXPECT(pending.rank == rank && pending.process == process);
    (void)process;
    add_mass(pending, lse.subspan(at, heads));
  }
}

void Owner::add_mass(const Pending& pending, std::span<const float> lse) {
  const Reducer reducer = geometry_->spec().eviction.head_reducer;
  for (std::uint32_t t = pending.first_task; t < pending.first_task + pending.n_tasks; ++t) {
    const AttendTask& task = pending_tasks_[t];
    Shard& s = shards_[pending_shards_[t]];
    const std::uint32_t heads = task.n_kv_heads * task.group;
    std::uint64_t slots = 0;
    for (std::uint32_t p = 0; p < task.n_pages; ++p) slots += pending_reads_[task.first_page + p].n_slots;
    std::uint64_t column = 0;
    for (std::uint32_t p = 0; p < task.n_pages; ++p) {
      const PageRead& read = pending_reads_[task.first_page + p];
      const std::uint32_t page = pending_pages_[task.first_page + p];
      mass_pages_.emplace_back(pending_shards_[t], page);
      for (std::uint32_t slot = 0; slot < read.n_slots; ++slot, ++column) {
        float sum = 0, most = 0;
        for (std::uint32_t h = 0; h < heads; ++h) {
          const float a = exp_fixed(pending_logits_[task.logits + h * slots + column] - lse[task.q_head + h]);
          sum += a;
          most = a > most ? a : most;
        }
        s.step_mass(s.at(page, slot)) += reducer == Reducer::max ? most : reducer == Reducer::sum ? sum : sum / static_cast<float>(heads);
      }
    }
  }
}

void Owner::finish_mass() {
  std::sort(mass_pages_.begin(), mass_pages_.end());
  mass_pages_.erase(std::unique(mass_pages_.begin(), mass_pages_.end()), mass_pages_.end());
  for (const auto& [shard_index, page] : mass_pages_) {
    Shard& s = shards_[shard_index];
    for (std::uint32_t slot = 0; slot < s.pages()[page].used; ++slot) {
      const std::size_t i = s.at(page, slot);
      const float a = std::exchange(s.step_mass(i), 0.0F);
      if (!s.live(page, slot)) continue;
      s.pages()[page].mass += a;
      s.state(i) = std::visit([&](const auto& rule) -> float {
        if constexpr (requires { rule.mass(0.0F, a); }) return rule.mass(s.state(i), a);
        return 0.0F;
      }, geometry_->spec().eviction.rule);
    }
  }
  mass_pages_.clear();
  pending_.clear();
}

}  // namespace moekv
