// Load balance layer by layer, the skew that a generator was asked for and the one that its experts show, and ranks that wait for others.
#include <algorithm>
#include <limits>
#include <map>

#include "engine/statistics.hpp"
#include "engine/summary_list.hpp"

namespace moekv {
namespace {

using enum ClaimClass;
constexpr double no_number = std::numeric_limits<double>::quiet_NaN();
constexpr std::size_t ep_ranks = 8;                  // deepep_ratio speaks of one of eight expert-parallel ranks
constexpr double power_law_max_tokens = 0.8 * 4096;  // largest expert total of power_law

/// Loads of one kind of entity by layer; entities without a row have 0.
std::map<std::int64_t, std::vector<double>> loads_of(std::span<const LayerLoadRecord> rows, Entity entity, std::size_t n) {
  std::map<std::int64_t, std::vector<double>> layers;
  for (const LayerLoadRecord& r : rows) {
    if (r.entity != static_cast<std::int64_t>(entity)) continue;
    auto& loads = layers[r.layer];
    loads.resize(std::max({n, loads.size(), static_cast<std::size_t>(r.index) + 1}));
    loads[static_cast<std::size_t>(r.index)] = static_cast<double>(r.load);
  }
  return layers;
}

/// Load of the busiest of eight runs of experts over the mean.
double busiest_of_eight(std::span<const double> loads) {
  const std::size_t per_rank = (loads.size() + ep_ranks - 1) / ep_ranks;
  double most = 0, sum = 0;
  for (std::size_t first = 0; first < loads.size(); first += per_rank) {
    double load = 0;
    for (std::size_t e = first; e < std::min(first + per_rank, loads.size()); ++e) load += loads[e];
    most = std::max(most, load);
    sum += load;
  }
  return sum > 0 ? most * static_cast<double>(loads.size()) / (static_cast<double>(per_rank) * sum) : no_number;
}

struct Skew {
  std::string text;
  double requested = no_number;
  double (*realised)(std::span<const double> loads, const SyntheticSpec& spec);
};

Skew skew_of(const RunSpec& spec) {
  using Loads = std::span<const double>;
  const SyntheticSpec& s = spec.trace.synthetic;
  const std::string preset = spec.trace.path.empty() && spec.trace.tokens.empty() ? s.preset : "";
  if (preset == "k_hot")
    return {"share of the choices on the hot_experts hottest experts (preset k_hot: hot_share)", s.hot_share,
            [](Loads loads, const SyntheticSpec& t) { return hottest_share(loads, static_cast<std::size_t>(t.hot_experts)); }};
  if (preset == "deepep_ratio")
    return {"load of the busiest of eight runs of experts over the mean (preset deepep_ratio: overload_ratio)", s.overload_ratio,
            [](Loads loads, const SyntheticSpec&) { return busiest_of_eight(loads); }};
  if (preset == "power_law")
    return {"exponent of a density of expert loads (preset power_law: power_alpha)", s.power_alpha,
            [](Loads loads, const SyntheticSpec&) { return power_law_exponent(loads, power_law_max_tokens); }};
  return {"Zipf exponent of the loads by rank (preset zipf: zipf_s; other traces have no dial)", preset == "zipf" ? s.zipf_s : no_number,
          [](Loads loads, const SyntheticSpec&) { return zipf_exponent(loads); }};
}

}  // namespace

void add_layer_balance(std::span<const LayerLoadRecord> rows, Entity entity, std::size_t n, SummaryList& list) {
  double sum = 0, most = 0;
  std::int64_t layers = 0;
  for (const auto& [layer, loads] : loads_of(rows, entity, n)) {
    const Balance b = balance(loads);
    sum += b.max / b.mean;
    most = std::max(most, b.max / b.mean);
    layers += 1;
  }
  if (layers == 0) return;
  const std::string prefix = std::string(to_string(entity)) + "_";
  list.add_ratio(prefix + "imbalance_layer", {"1", counted, "max / mean of the loads of a layer over the run, mean over layers with load"}, sum,
                 static_cast<double>(layers));
  list.add(prefix + "imbalance_layer_max", {"1", counted, "largest max / mean of the loads of a layer over the run"}, most);
}

void add_skew(const RunSpec& spec, std::span<const LayerLoadRecord> rows, std::size_t n_experts, SummaryList& list) {
  if (!std::holds_alternative<route::Recorded>(spec.routing.rule)) return;  // the choices are another router's
  const Skew skew = skew_of(spec);
  std::vector<double> realised;
  for (const auto& [layer, loads] : loads_of(rows, Entity::expert, n_experts)) realised.push_back(skew.realised(loads, spec.trace.synthetic));
  list.add("requested_skew", {"1", ClaimClass::derived, "the generator's dial: " + skew.text}, skew.requested);
  list.add("realised_skew", {"1", counted, "what the routing replayed has, mean over MoE layers: " + skew.text}, moments(realised).mean);
}

void add_waits(std::span<const LoadRecord> loads, double n_steps, SummaryList& list) {
  std::map<std::int64_t, std::int64_t> exchange_ns, longest_ns;  // by rank, by window
  double waited = 0;
  for (const LoadRecord& l : loads) {
    if (l.entity != static_cast<std::int64_t>(Entity::rank) || l.exchange_ns == 0) continue;
    exchange_ns[l.index] += l.exchange_ns;
    longest_ns[l.first_step] = std::max(longest_ns[l.first_step], l.wait_ns);
    waited += static_cast<double>(l.wait_ns);
  }
  double skew = 0;
  for (const auto& [window, ns] : longest_ns) skew += static_cast<double>(ns);
  const auto last = std::min_element(exchange_ns.begin(), exchange_ns.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  list.add_ratio("wait", {"ns", measured, "wait_ns of a rank and step, mean: time in exchanges until the last rank arrives"}, waited,
                 n_steps * static_cast<double>(exchange_ns.size()));
  list.add_ratio("skew", {"ns", measured, "largest wait_ns of a rank in a window, per step: between the first and the last rank to arrive"}, skew,
                 n_steps);
  list.add("critical_rank", {"1", measured, "the rank that waited least: the others wait for it; unknown where ranks share a process"},
           last == exchange_ns.end() ? std::numeric_limits<double>::quiet_NaN() : static_cast<double>(last->first));
}

}  // namespace moekv
