// moekv policy evict, with an allocator: how groups (head groups, layers) divide the sum of their budgets.
#include "app/policy_evict.hpp"
#include "engine/allocate.hpp"

namespace moekv::policy_evict {
namespace {

/// DuoAttention's classes, and with "units" the positions that a streaming head keeps of so many.
Json duo_classes(const allocate::Duo& duo, const std::vector<double>& gates, std::uint64_t units) {
  const std::vector<bool> full = duo.full(gates);
  Json retrieving = Json::array(), streaming = Json::array(), kept = Json::array();
  for (std::size_t g = 0; g < gates.size(); ++g) (full[g] ? retrieving : streaming).push_back(g);
  for (std::uint64_t t = 0; t < units; ++t) {
    if (t < duo.sink || t + duo.recent >= units) kept.push_back(t);
  }
  Json out = {{"threshold", duo.threshold(gates)}, {"full", retrieving}, {"streaming", streaming}};
  if (units > 0) out["streaming_keeps"] = kept;
  return out;
}

/// One number of each group: the rows of "scores", or the field that the allocator has a name for.
void read_groups(Case& given, const Allocator& allocator, allocate::Request& request) {
  const auto numbers = [&](const char* name) {
    for (const double x : given.list<double>(name, {0, 1e15})) request.scores.push_back({x});
  };
  const auto* cake = std::get_if<allocate::Cake>(&allocator);
  if (std::holds_alternative<allocate::Duo>(allocator) && given.has("gates")) return numbers("gates");
  if (std::holds_alternative<allocate::File>(allocator) && given.has("shares")) return numbers("shares");
  if (cake != nullptr && given.has("entropy")) {
    const auto entropy = given.list<double>("entropy", {0, 1e30}), variance = given.list<double>("variance", {0, 1e30});
    if (entropy.size() != variance.size()) given.complain("variance", "as many values as entropy");
    if (given.failed()) return;
    for (const double p : cake->preferences(entropy, variance)) request.scores.push_back({p});
    return;
  }
  given.require("scores");
  request.scores = given.rows<double>("scores");
  const bool one = std::holds_alternative<allocate::Duo>(allocator) || std::holds_alternative<allocate::File>(allocator);
  for (const auto& row : request.scores) {
    if (one && row.size() != 1) return given.complain("scores", "this allocator looks at one number of each group", "write [[0.9], [0.1]]");
  }
}

}  // namespace

Json decide_allocator(Case& given) {
  auto allocator = given.rule<Allocator>("allocator");
  allocate::Request request;
  const auto budget = given.value<std::uint64_t>("budget", {1, 1e12});
  read_groups(given, allocator, request);
  request.held = given.list<std::uint64_t>("held", {0, 1e12});
  request.window = given.value_or<std::uint64_t>("window", 0, {0, 1e12});
  const auto units = given.value_or<std::uint64_t>("units", 0, {0, 1e6});
  auto fixed = given.list<std::uint64_t>("protected", {0, 1e12});
  const std::size_t n = request.n_groups();
  if (!given.failed() && n == 0) given.complain("scores", "no group", "give one row for each group");
  if (!request.held.empty() && request.held.size() != n) given.complain("held", fmt::format("has {} values for {} groups", request.held.size(), n));
  if (!fixed.empty() && fixed.size() != n) given.complain("protected", fmt::format("has {} values for {} groups", fixed.size(), n));
  given.finish();
  if (fixed.empty()) fixed.assign(n, 0);
  Json out;
  if (const auto* duo = std::get_if<allocate::Duo>(&allocator); duo != nullptr) {
    std::vector<double> gates;
    for (const auto& row : request.scores) gates.push_back(row.front());
    out = duo_classes(*duo, gates, units);
    const std::vector<bool> full = duo->full(gates);
    for (std::size_t g = 0; g < n; ++g) request.scores[g] = {full[g] ? 1.0 : 0.0};
  }
  out["capacity"] = capacities(allocator, request, allocate::Shares(n, budget), fixed);
  return out;
}

}  // namespace moekv::policy_evict
