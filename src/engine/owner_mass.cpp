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
    const std::byte* v = entry.v != nullptr ? entry.v + h * model.d_v * pb : entry.k + h * model.d_k * pb;  // MLA: V is the first channels of the latent
    widen(v, geometry_->spec().payload.element, model.d_v, v_row_);
    std::visit([&](const auto& rule) {
      if constexpr (evict::needs_payload<std::decay_t<decltype(rule)>>)
        sum += rule.stored({k_row_.data(), v_row_.data(), model.d_k, model.d_v, geometry_->spec().eviction.seed, weights_.view()});
    }, geometry_->spec().eviction.rule);
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
        evict::Mass& mass = s.step_mass(s.at(page, slot));
        mass.value += reducer == Reducer::max ? most : reducer == Reducer::sum ? sum : sum / static_cast<float>(heads);
        mass.seen += pending_logits_[task.logits + column] > -std::numeric_limits<float>::infinity() ? 1 : 0;
      }
    }
  }
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

void Owner::finish_mass() {
  std::sort(mass_pages_.begin(), mass_pages_.end());
  mass_pages_.erase(std::unique(mass_pages_.begin(), mass_pages_.end()), mass_pages_.end());
  for (const auto& [shard_index, page] : mass_pages_) {
    Shard& s = shards_[shard_index];
    for (std::uint32_t slot = 0; slot < s.pages()[page].used; ++slot) {
      const std::size_t i = s.at(page, slot);
      const evict::Mass a = std::exchange(s.step_mass(i), {});
      if (!s.live(page, slot)) continue;
      s.pages()[page].mass += a.value;
      std::visit([&](const auto& rule) {
        if constexpr (requires { rule.mass(0.0F, 0.0F); }) s.state(i) = {rule.mass(s.state(i).value, a.value), s.state(i).seen + a.seen};
      }, geometry_->spec().eviction.rule);
    }
  }
  mass_pages_.clear();
  pending_.clear();
}

}  // namespace moekv
