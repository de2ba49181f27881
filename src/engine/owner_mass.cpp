// Owner, state of the eviction rule: kept logits are normalised once home has merged their log-sum-exp, then reduced into it; or the entry's own
// key and value make it.
#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "core/math.hpp"
#include "engine/owner.hpp"
#include "rules/codec/element.hpp"

namespace moekv {

namespace {

/// n raw elements as fp32.
void widen(const std::byte* from, ElementFormat format, std::size_t n, std::vector<float>& to) {
  to.resize(n);
  if (format == ElementFormat::fp32) {
    std::memcpy(to.data(), from, n * sizeof(float));
    return;
  }
  for (std::size_t i = 0; i < n; ++i) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, from + 2 * i, 2);
    to[i] = format == ElementFormat::bf16 ? float_from_bf16(bits) : float_from_fp16(bits);
  }
}

}  // namespace

void Owner::score_payload(Shard& shard, std::size_t slot, const Entry& entry, std::uint32_t head_group) {
  const ModelShape& model = geometry_->spec().model;
  const std::size_t pb = geometry_->payload_bytes();
  const std::uint32_t n_heads = geometry_->head_group_width(shard.rank(), head_group);
  const std::size_t first = std::size_t{head_group} * geometry_->heads_per_group();
  float sum = 0;
  for (std::size_t h = first; h < first + n_heads; ++h) {
    widen(entry.k + h * model.d_k * pb, geometry_->spec().payload.element, model.d_k, k_row_);
    const std::byte* v =
        entry.v != nullptr ? entry.v + h * model.d_v * pb : entry.k + h * model.d_k * pb;  // MLA: V is the first channels of the latent
    widen(v, geometry_->spec().payload.element, model.d_v, v_row_);
    std::visit(
        [&](const auto& rule) {
          if constexpr (evict::needs_payload<std::decay_t<decltype(rule)>>)
            sum += rule.stored({k_row_.data(), v_row_.data(), model.d_k, model.d_v, geometry_->spec().eviction.seed, weights_.view()});
        },
        geometry_->spec().eviction.rule);
  }
  shard.state(slot) = {sum / static_cast<float>(n_heads), 0};
}

void Owner::keep_pending() {
  pending_.clear();
  if (!geometry_->needs_mass()) return;
  for (const Query& q : queries_) {
    const RequestId request(q.header->request);
    if (q.n_read == 0 || q.header->observed == 0) continue;
    pending_.push_back({q.rank, (*requests_)[request].home, q.process, q.first_task, q.n_tasks, request, q.header->position});
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
    add_window(pending, lse.subspan(at, heads));
  }
}

void Owner::add_mass(const Pending& pending, std::span<const float> lse) {
  for (std::uint32_t t = pending.first_task; t < pending.first_task + pending.n_tasks; ++t) {
    const AttendTask& task = pending_tasks_[t];
    const auto number = static_cast<std::uint32_t>(mass_tasks_.size());
    std::uint32_t column = 0;
    for (std::uint32_t p = task.first_page; p < task.first_page + task.n_pages; ++p) {
      mass_due_.push_back({pending_shards_[t], pending_pages_[p], {number, column, pending_reads_[p].n_slots}});
      column += pending_reads_[p].n_slots;
    }
    mass_tasks_.push_back({task.logits, column, static_cast<std::uint32_t>(mass_lse_.size()) + task.q_head, task.n_kv_heads * task.group});
  }
  mass_lse_.insert(mass_lse_.end(), lse.begin(), lse.end());
}

void Owner::add_window(const Pending& pending, std::span<const float> lse) {
  const std::uint32_t prompt = (*requests_)[pending.request].prompt_tokens, window = std::min(geometry_->window_queries(), prompt);
  if (window == 0 || pending.position >= prompt || pending.position < prompt - window) return;
  for (std::uint32_t t = pending.first_task; t < pending.first_task + pending.n_tasks; ++t) {
    const AttendTask& task = pending_tasks_[t];
    Shard& s = shards_[pending_shards_[t]];
    std::uint64_t slots = 0, column = 0;
    for (std::uint32_t p = 0; p < task.n_pages; ++p) slots += pending_reads_[task.first_page + p].n_slots;
    for (std::uint32_t p = 0; p < task.n_pages; ++p) {
      const std::uint32_t page = pending_pages_[task.first_page + p];
      Group& group = s.groups()[s.pages()[page].group];
      for (std::uint32_t slot = 0; slot < pending_reads_[task.first_page + p].n_slots; ++slot, ++column) {
        if (s.position(s.at(page, slot)) >= prompt - window) continue;  // the window looks at what lies before it
        const std::span<float> mass = s.window_mass(s.at(page, slot));
        for (std::uint32_t h = 0; h < task.n_kv_heads * task.group; ++h) {
          const float log_a = pending_logits_[task.logits + h * slots + column] - lse[task.q_head + h], a = exp_fixed(log_a);
          if (a == 0) continue;
          mass[h] += a;
          group.window_entropy -= static_cast<double>(a) * static_cast<double>(log_a);
          group.window_squares += static_cast<double>(a) * static_cast<double>(a);
        }
      }
    }
  }
}

void Owner::absorb_mass(std::uint32_t shard_index, std::uint32_t page, const SlotMass* mass) {
  Shard& s = shards_[shard_index];
  if (forgets_) weighed_[shard_index].resize(s.pages().size());
  if (forgets_) weighed_[shard_index][page] = true;
  for (std::uint32_t slot = 0; slot < s.pages()[page].used; ++slot) {
    if (!s.live(page, slot)) continue;
    evict::Mass& state = s.state(s.at(page, slot));
    s.pages()[page].mass += mass[slot].value;
    std::visit(
        [&](const auto& rule) {
          if constexpr (requires { rule.mass(0.0F, 0.0F); }) state = {rule.mass(state.value, mass[slot].value), state.seen + mass[slot].seen};
        },
        geometry_->spec().eviction.rule);
  }
}

void Owner::absorb_unread() {
  if (!forgets_) return;
  const std::vector<SlotMass> nothing(geometry_->page_slots());
  for (std::uint32_t i = 0; i < shards_.size(); ++i) {
    weighed_[i].resize(shards_[i].pages().size());
    for (const Group& group : shards_[i].groups()) {
      if (!group.in_use) continue;
      const RequestTable::Row& row = (*requests_)[group.request];
      if (row.step != step_ || row.observe_begin >= row.length) continue;
      for (const Chain& chain : group.chains) {
        for (const std::uint32_t p : chain.pages) {
          if (!weighed_[i][p]) absorb_mass(i, p, nothing.data());
        }
      }
    }
    weighed_[i].clear();
  }
}

void Owner::finish_mass() {
  const auto place = [](const MassDue& due) { return std::pair(due.shard_index, due.page); };
  // Reads of one page stay in the order of their queries.
  std::stable_sort(mass_due_.begin(), mass_due_.end(), [&](const MassDue& a, const MassDue& b) { return place(a) < place(b); });
  std::vector<MassPage> pages;
  std::vector<MassRead> reads;
  for (std::size_t i = 0; i < mass_due_.size(); ++i) {
    if (i == 0 || place(mass_due_[i]) != place(mass_due_[i - 1])) pages.push_back({static_cast<std::uint32_t>(i), 0});
    pages.back().n_reads += 1;
    reads.push_back(mass_due_[i].read);
  }
  if (!pages.empty()) {
    const std::uint32_t slots = geometry_->page_slots();
    std::vector<SlotMass> mass(pages.size() * slots);
    backend_->weigh({mass_tasks_, reads, pages, mass_lse_, geometry_->spec().eviction.head_reducer, slots,
                     pending_logits_.empty() ? nullptr : pending_logits_.data(), mass.data()});
    backend_->sync();
    for (std::size_t p = 0; p < pages.size(); ++p) {
      const MassDue& first = mass_due_[pages[p].first_read];
      absorb_mass(first.shard_index, first.page, &mass[p * slots]);
    }
  }
  mass_due_.clear();
  mass_tasks_.clear();
  mass_lse_.clear();
  pending_.clear();
}

}  // namespace moekv
