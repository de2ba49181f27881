// What the device decides or sums up for the host: scores of pages and the choice among them, attention masses, choices of experts.
#include <algorithm>

#include "core/error.hpp"
#include "device_backend.hpp"
#include "gate_block.hpp"
#include "score_block.hpp"
#include "select_block.hpp"

namespace moekv::kernels {

void DeviceBackend::score_pages(const ScoreBatch& batch) {
  std::vector<ScoreItem> items;
  std::vector<const std::byte*> bounds(batch.pages.size());
  for (std::size_t p = 0; p < bounds.size(); ++p) bounds[p] = pool(batch.pages[p]).bounds(batch.pages[p].index);
  std::uint64_t shared_bytes = 0, n_queries = 0;
  for (const ScoreTask& task : batch.tasks) {
    std::uint32_t most = score_pages_most;
    while (most > 1 && score_floats(most, task.group, batch.d_k) * sizeof(float) > device_->shared_limit()) most /= 2;
    shared_bytes = std::max(shared_bytes, score_floats(most, task.group, batch.d_k) * sizeof(float));
    n_queries = std::max<std::uint64_t>(n_queries, task.query + std::uint64_t{1});
    const std::uint64_t first_q = std::uint64_t{task.query} * batch.q_row_heads + task.q_head;
    for (std::uint32_t i = 0; i < task.n_pages;) {
      const std::uint32_t first = task.first_page + i, id = batch.pages[first].pool.value;
      std::uint32_t n = 0;
      while (n < most && i + n < task.n_pages && batch.pages[first + n].pool.value == id) ++n;
      items.push_back({first_q, first, n, id, task.n_kv_heads, task.group});
      i += n;
    }
  }
  if (items.empty()) return;
  std::vector<SelectItem> choices;
  std::uint32_t n_chosen = 0, largest = 0;
  if (batch.chosen != nullptr) {
    const select::Pick pick = pick_of(*batch.rule);
    for (const ScoreTask& task : batch.tasks) {
      const std::uint32_t n = select::n_chosen(pick, task.n_pages), apart = pick.newest && task.n_pages > 0 ? 1 : 0;
      choices.push_back({task.first_page, task.n_pages, n - apart, apart != 0 ? task.newest : ~0U, n_chosen});
      n_chosen += n;
      largest = std::max(largest, task.n_pages);
    }
  }
  if (shared_bytes > device_->shared_limit())
    throw PointFailure("scoring pages: the query heads of one KV head do not fit the shared memory of the device");
  const std::uint64_t q_bytes = n_queries * batch.q_row_heads * code_bytes({batch.q_format}, batch.d_k);
  const PoolLayout* pools = layouts();
  const std::uint64_t score_bytes = Staging::room<float>(bounds.size());
  results_.need(score_bytes + Staging::room<std::uint32_t>(n_chosen));
  staging_.begin(Staging::room<ScoreItem>(items.size()) + Staging::room<const std::byte*>(bounds.size()) + Staging::room<std::byte>(q_bytes) +
                     Staging::room<SelectItem>(choices.size()),
                 Staging::room<float>(bounds.size()) + Staging::room<std::uint32_t>(n_chosen));
  ScoreLaunch work{};
  work.pools = pools;
  work.items = staging_.put(std::span<const ScoreItem>(items));
  work.n_items = static_cast<std::uint32_t>(items.size());
  work.bounds = staging_.put(std::span<const std::byte* const>(bounds));
  work.q = staging_.put(std::span<const std::byte>(batch.q, q_bytes));
  work.q_format = batch.q_format;
  work.d_k = batch.d_k;
  work.rule = *batch.rule;
  work.scores = reinterpret_cast<float*>(results_.device());
  work.shared_bytes = shared_bytes;
  staging_.launch(work);
  SelectLaunch choice{};
  choice.items = staging_.put(std::span<const SelectItem>(choices));
  choice.n_items = static_cast<std::uint32_t>(choices.size());
  choice.scores = work.scores;
  choice.chosen = reinterpret_cast<std::uint32_t*>(results_.device() + score_bytes);
  launch_choice(choice, largest);
  if (batch.scores != nullptr) {
    const float* scores = staging_.bring(work.scores, bounds.size());
    for (const ScoreTask& task : batch.tasks) staging_.deliver(batch.scores + task.first_page, scores + task.first_page, task.n_pages);
  }
  if (n_chosen > 0) staging_.deliver(batch.chosen, staging_.bring(static_cast<const std::uint32_t*>(choice.chosen), n_chosen), n_chosen);
  staging_.end();
}

void DeviceBackend::weigh(const WeighBatch& batch) {
  if (batch.pages.empty()) return;
  const std::uint64_t n_slots = batch.pages.size() * batch.page_slots;
  results_.need(n_slots * sizeof(SlotMass));
  staging_.begin(Staging::room<MassPage>(batch.pages.size()) + Staging::room<MassRead>(batch.reads.size()) +
                     Staging::room<MassTask>(batch.tasks.size()) + Staging::room<float>(batch.lse.size()) + Staging::room<std::uint32_t>(1),
                 Staging::room<SlotMass>(n_slots));
  MassLaunch work{};
  work.pages = staging_.put(batch.pages);
  work.reads = staging_.put(batch.reads);
  work.tasks = staging_.put(batch.tasks);
  work.lse = staging_.put(batch.lse);
  const auto n_pages = static_cast<std::uint32_t>(batch.pages.size());
  work.n_pages = staging_.put(std::span(&n_pages, 1));
  work.logits = reinterpret_cast<const float*>(kept_.device());
  work.heads = batch.heads;
  work.page_slots = batch.page_slots;
  work.n_items = static_cast<std::uint32_t>((n_slots + block_threads - 1) / block_threads);
  work.mass = reinterpret_cast<SlotMass*>(results_.device());
  staging_.launch(work);
  staging_.deliver(batch.mass, staging_.bring(static_cast<const SlotMass*>(work.mass), n_slots), n_slots);
  staging_.end();
}

void DeviceBackend::launch_choice(SelectLaunch work, std::uint32_t largest) {
  work.shared_pages = static_cast<std::uint32_t>(rounded_up(largest));
  if (select_shared_bytes(work.shared_pages) > device_->shared_limit()) work.shared_pages = 0;
  work.shared_bytes = select_shared_bytes(work.shared_pages);
  staging_.launch(work);
}

bool DeviceBackend::find_lowest(const LowestBatch& batch) {
  constexpr std::uint32_t most = 1U << 24;  // of one task
  if (batch.keys.size() < worth_a_trip) return false;
  std::vector<SelectItem> items;
  std::uint32_t n_lowest = 0, largest = 0;
  for (const LowestTask& task : batch.tasks) {
    items.push_back({task.first, task.n, task.n_lowest, ~0U, n_lowest});
    n_lowest += task.n_lowest;
    largest = std::max(largest, task.n);
  }
  if (largest >= most || n_lowest == 0) return false;
  results_.need(Staging::room<std::uint32_t>(n_lowest));
  staging_.begin(Staging::room<std::uint64_t>(batch.keys.size()) + Staging::room<SelectItem>(items.size()), Staging::room<std::uint32_t>(n_lowest));
  SelectLaunch work{};
  work.keys = staging_.put(batch.keys);
  work.items = staging_.put(std::span<const SelectItem>(items));
  work.n_items = static_cast<std::uint32_t>(items.size());
  work.chosen = reinterpret_cast<std::uint32_t*>(results_.device());
  launch_choice(work, largest);
  staging_.deliver(batch.lowest, staging_.bring(static_cast<const std::uint32_t*>(work.chosen), n_lowest), n_lowest);
  staging_.end();
  return true;
}

bool DeviceBackend::gate(const GateBatch& batch) {
  const std::uint32_t e = batch.geometry->n_experts, k = batch.geometry->top_k;
  const std::uint64_t n = batch.tokens.size();
  if (n * e < worth_a_trip || gate_shared_bytes(e, k) > device_->shared_limit()) return false;
  results_.need(Staging::room<float>(n * k) + n * k * sizeof(std::uint16_t));
  staging_.begin(Staging::room<float>(n * e), Staging::room<float>(n * k) + Staging::room<std::uint16_t>(n * k));
  const auto logits = staging_.part<float>(n * e);
  for (std::uint64_t t = 0; t < n; ++t) std::copy_n(batch.tokens[t].logits, e, logits.host + t * e);
  const GateShape gate = batch.rule->effective(batch.geometry->gate);
  GateLaunch work{};
  work.logits = logits.device;
  work.weights = reinterpret_cast<float*>(results_.device());
  work.ids = reinterpret_cast<std::uint16_t*>(results_.device() + Staging::room<float>(n * k));
  work.n_items = static_cast<std::uint32_t>(n);
  work.n_experts = e;
  work.top_k = k;
  work.n_group = gate.n_group;
  work.topk_group = gate.topk_group;
  work.score = gate.score;
  work.order = gate.order;
  work.renormalise = gate.renormalise;
  work.scale = gate.scale;
  work.temperature = batch.rule->temperature;
  work.shared_bytes = gate_shared_bytes(e, k);
  staging_.launch(work);
  staging_.deliver(batch.out.weights, staging_.bring(static_cast<const float*>(work.weights), n * k), n * k);
  staging_.deliver(batch.out.ids, staging_.bring(static_cast<const std::uint16_t*>(work.ids), n * k), n * k);
  staging_.end();
  return true;
}

}  // namespace moekv::kernels
