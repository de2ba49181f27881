// Which pairs are sampled, and their rows.
#include "engine/attention_sample.hpp"

#include <algorithm>
#include <numeric>
#include <queue>
#include <tuple>

#include "core/error.hpp"
#include "core/rng.hpp"

namespace moekv {

const char* attention_refusal(const RunSpec& spec) {
  if (spec.backend == "count") return "backend count has no attention";
  if (spec.placement.layout != Layout::local) return "only under placement.layout: local one budget holds all tokens of a request and layer";
  if (spec.eviction.scope != EvictScope::request) return "requests share a budget under eviction.scope: shard";
  if (spec.page.head_groups > 1) return "head groups have budgets of their own";
  if (spec.eviction.budget.kind == BudgetKind::unlimited) return "without eviction.budget nothing is lost";
  if (spec.eviction.budget.kind == BudgetKind::bytes) return "a budget of bytes is not a number of tokens";
  if (!std::holds_alternative<allocate::Uniform>(spec.eviction.allocator)) return "an allocator gives layers unequal budgets";
  if (spec.read.scope != ReadScope::all || selects(spec.read.select)) return "queries do not read all that is resident (read.scope, read.select)";
  if (spec.payload.generator.expert_affinity > 0) return "generated keys depend on experts (payload.generator.expert_affinity)";
  return nullptr;
}

AttentionSample::AttentionSample(const Geometry& geometry, const RequestTable& requests, std::uint32_t n_requests, std::uint32_t n_groups)
    : geometry_(&geometry), requests_(&requests) {
  const RunSpec& spec = geometry.spec();
  if (n_groups == 0) return;
  const std::uint32_t first = spec.trace.first_request;
  const std::uint32_t n = spec.trace.max_requests > 0 ? std::min(n_requests - first, spec.trace.max_requests) : n_requests - first;
  std::priority_queue<std::tuple<std::uint64_t, std::uint32_t, std::uint16_t>> smallest;
  for (std::uint32_t r = first; r < first + n; ++r) {
    for (const ReplayLayer& layer : geometry.layers()) {
      smallest.emplace(hash_words(spec.probe.seed, 0x61U, r, layer.layer.value), r, layer.layer.value);
      if (smallest.size() > n_groups) smallest.pop();
    }
  }
  for (; !smallest.empty(); smallest.pop()) groups_.emplace(std::get<1>(smallest.top()), std::get<2>(smallest.top()));
}

void AttentionSample::mark(const ReplayLayer& layer, std::span<HomeToken> tokens) const {
  for (HomeToken& t : tokens) t.probe = t.probe || (t.query && contains(t.request, layer.layer));
}

void AttentionSample::begin_layer(const ReplayLayer& layer, std::span<const HomeToken> tokens) {
  const RunSpec& spec = geometry_->spec();
  for (const HomeToken& t : tokens) {
    if (!contains(t.request, layer.layer) || (!open_.empty() && open_.back().row.request == t.request.value)) continue;
    const RequestTable::Row& request = (*requests_)[t.request];
    const std::uint64_t unit = spec.eviction.budget.kind == BudgetKind::pages ? geometry_->page_slots() : 1;
    Open open;
    open.row.step = request.step;
    open.row.request = t.request.value;
    open.row.layer = layer.layer.value;
    open.row.evicts = spec.prefill.evict == PrefillEvict::chunk || request.length >= request.prompt_tokens ? 1 : 0;
    open.row.length = open.row.held = request.length;
    open.row.budget = static_cast<std::uint32_t>(unit * geometry_->request_budget(layer, ShardId(0), request.total_tokens, ShardId(0)));
    open.mass.assign(request.length, 0.0);
    open_.push_back(std::move(open));
  }
}

void AttentionSample::add(RequestId request, const ExactResult& exact, std::uint32_t n_heads, std::uint32_t begin, std::span<const std::uint32_t> read) {
  const auto open = std::find_if(open_.begin(), open_.end(), [&](const Open& o) { return o.row.request == request.value; });
  MOEKV_EXPECT(open != open_.end());
  const std::size_t n = exact.weights.size() / n_heads;
  std::vector<double> mean(n, 0.0);
  for (std::uint32_t h = 0; h < n_heads; ++h) {
    for (std::size_t i = 0; i < n; ++i) mean[i] += exact.weights[h * n + i] / n_heads;
  }
  for (std::size_t i = 0; i < n; ++i) open->mass[begin + i] += mean[i];
  open->row.mass += std::accumulate(mean.begin(), mean.end(), 0.0);
  for (const std::uint32_t p : read) {
    if (p >= begin && p - begin < n) open->row.kept += mean[p - begin];
  }
  open->row.held = static_cast<std::uint32_t>(read.size());
}

void AttentionSample::end_layer() {
  for (Open& open : open_) {
    std::vector<AttentionCell> cells;
    for (std::uint32_t p = 0; p < open.mass.size(); ++p) {
      if (open.mass[p] > 0) cells.push_back({p, static_cast<float>(open.mass[p])});
    }
    if (cells.size() > max_cells) {
      const auto heavier = [](const AttentionCell& a, const AttentionCell& b) { return a.mass != b.mass ? a.mass > b.mass : a.position < b.position; };
      std::nth_element(cells.begin(), cells.begin() + max_cells, cells.end(), heavier);
      cells.resize(max_cells);
      std::sort(cells.begin(), cells.end(), [](const AttentionCell& a, const AttentionCell& b) { return a.position < b.position; });
    }
    double told = 0;
    for (const AttentionCell& c : cells) told += static_cast<double>(c.mass);
    if (cells.size() == max_cells) open.row.residual = std::max(0.0, open.row.mass - told);
    open.row.n_cells = static_cast<std::uint32_t>(cells.size());
    rows_.push_back(open.row);
    cells_.insert(cells_.end(), cells.begin(), cells.end());
  }
  open_.clear();
}

void order_attention(std::vector<AttentionRow>& rows, std::vector<AttentionCell>& cells) {
  std::vector<std::size_t> first(rows.size(), 0), order(rows.size());
  for (std::size_t i = 1; i < rows.size(); ++i) first[i] = first[i - 1] + rows[i - 1].n_cells;
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto key = [&](std::size_t i) { return std::tuple(rows[i].step, rows[i].request, rows[i].layer); };
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return key(a) < key(b); });
  std::vector<AttentionRow> sorted;
  std::vector<AttentionCell> moved;
  for (const std::size_t i : order) {
    sorted.push_back(rows[i]);
    moved.insert(moved.end(), cells.begin() + static_cast<std::ptrdiff_t>(first[i]), cells.begin() + static_cast<std::ptrdiff_t>(first[i] + rows[i].n_cells));
  }
  rows.swap(sorted);
  cells.swap(moved);
}

void AttentionSample::clear() {
  rows_.clear();
  cells_.clear();
}

}  // namespace moekv
