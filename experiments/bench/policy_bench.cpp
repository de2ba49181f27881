// policy_bench: accesses per second of every eviction rule that follows accesses, alone on one sequence, beside a plain array LRU in the same rounds.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "engine/oracle/access_loop.hpp"
#include "plain_lru.hpp"

namespace moekv {
namespace {

using Clock = std::chrono::steady_clock;

/// One loop under test. `run` replays the sequence once more on its warm state and returns hits.
struct Subject {
  std::string name;
  bool scored = false;
  std::function<std::uint64_t(std::span<const std::uint32_t>)> run;
  std::uint64_t hits = 0;
  std::vector<double> per_s = {}, ratio = {};
};

template <class Rule>
void add_rule(std::vector<Subject>& subjects, const Rule& rule, std::uint32_t capacity, std::uint32_t n_pages, std::uint32_t low) {
  constexpr bool queue = Rule::family == evict::Family::queue, counts = evict::needs_access<Rule> && !evict::needs_mass<Rule>;
  if constexpr (queue || counts) {
    auto loop = std::make_shared<AccessLoop<Rule>>(rule, capacity, n_pages, 1, low);
    subjects.push_back({std::string(Rule::name), !queue, [loop](std::span<const std::uint32_t> ids) {
                          std::uint64_t hits = 0;
                          loop->run(ids, [&](bool hit) { hits += hit ? 1 : 0; }, [](std::uint32_t) {});
                          return hits;
                        }});
  }
}

template <class... Rules>
void add_rules(std::vector<Subject>& subjects, const std::variant<Rules...>*, std::uint32_t capacity, std::uint32_t n_pages, std::uint32_t low) {
  (add_rule(subjects, Rules{}, capacity, n_pages, low), ...);
}

/// Independent ids with probability 1 / (rank + 1), ranks scattered over the ids.
std::vector<std::uint32_t> zipf_ids(std::uint32_t n_pages, std::size_t n) {
  std::vector<double> below(n_pages);
  double sum = 0;
  for (std::uint32_t r = 0; r < n_pages; ++r) below[r] = sum += 1.0 / (r + 1.0);
  std::vector<std::uint32_t> order(n_pages), ids(n);
  std::iota(order.begin(), order.end(), 0U);
  for (std::uint32_t r = n_pages; r > 1; --r) std::swap(order[r - 1], order[hash_words(7, r) % r]);
  for (std::size_t i = 0; i < n; ++i) {
    const double u = static_cast<double>(mix64(i) >> 11) * 0x1p-53 * sum;
    ids[i] = order[static_cast<std::size_t>(std::upper_bound(below.begin(), below.end() - 1, u) - below.begin())];
  }
  return ids;
}

double at(std::vector<double> sorted, double share) {
  std::sort(sorted.begin(), sorted.end());
  return sorted[static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1) + 0.5)];
}

void measure(Subject& s, std::span<const std::uint32_t> ids) {
  const auto start = Clock::now();
  s.hits = s.run(ids);
  s.per_s.push_back(static_cast<double>(ids.size()) / std::chrono::duration<double>(Clock::now() - start).count());
}

int run(int argc, char** argv) {
  CLI::App app{"accesses per second of eviction rules beside a plain array LRU: interleaved rounds, ratios within a round, medians"};
  std::uint32_t n_pages = 1'000'000, share = 10, accesses = 1U << 21, low = 90;
  int rounds = 31;
  app.add_option("--pages", n_pages, "distinct pages")->capture_default_str();
  app.add_option("--capacity", share, "capacity in percent of the pages")->capture_default_str();
  app.add_option("--accesses", accesses, "accesses of a round")->capture_default_str();
  app.add_option("--low", low, "score rules evict down to this percentage of the capacity at once (trigger watermark)")->capture_default_str();
  app.add_option("--rounds", rounds)->capture_default_str();
  std::vector<std::string> rules;
  app.add_option("--rules", rules, "only these, separated by commas")->delimiter(',');
  CLI11_PARSE(app, argc, argv);
  const auto capacity = static_cast<std::uint32_t>(std::uint64_t{n_pages} * share / 100);
  const std::vector<std::uint32_t> ids = zipf_ids(n_pages, accesses);
  auto plain = std::make_shared<PlainLru>(n_pages, capacity);
  std::vector<Subject> subjects = {{"plain array LRU", false, [plain](std::span<const std::uint32_t> s) { return plain->run(s); }}};
  add_rules(subjects, static_cast<const EvictRule*>(nullptr), capacity, n_pages, static_cast<std::uint32_t>(std::uint64_t{capacity} * low / 100));
  if (!rules.empty()) {
    std::erase_if(subjects, [&](const Subject& s) { return s.name != "plain array LRU" && std::find(rules.begin(), rules.end(), s.name) == rules.end(); });
  }
  for (int round = -1; round < rounds; ++round) {
    for (Subject& s : subjects) {
      // The yardstick runs directly before each subject, so that both see the same machine.
      if (&s != subjects.data()) measure(subjects[0], ids);
      if (&s == subjects.data()) continue;
      measure(s, ids);
      s.ratio.push_back(s.per_s.back() / subjects[0].per_s.back());
    }
    if (round < 0) {  // fills the caches
      for (Subject& s : subjects) s.per_s.clear(), s.ratio.clear();
    }
  }
  fmt::print("{} pages, capacity {}, {} accesses a round, {} rounds; score rules cut back to {} % at once\n", n_pages, capacity, accesses, rounds, low);
  fmt::print("{:<28} {:>10} {:>8} {:>8} {:>8} {:>8} {:>9}\n", "rule", "M/s median", "p5", "p95", "ratio", "goal", "hit ratio");
  bool met = true;
  for (const Subject& s : subjects) {
    const double goal = s.scored ? 0.2 : 0.8, ratio = s.ratio.empty() ? 1 : at(s.ratio, 0.5);
    const bool binding = s.scored || s.name == "lru" || s.name == "fifo" || s.name == "clock";
    met = met && (!binding || s.ratio.empty() || ratio >= goal);
    const std::string aim = s.ratio.empty() || !binding ? "-" : fmt::format("{}", goal);
    fmt::print("{:<28} {:>10.1f} {:>8.1f} {:>8.1f} {:>8.3f} {:>8} {:>9.4f}\n", s.name, at(s.per_s, 0.5) * 1e-6, at(s.per_s, 0.05) * 1e-6,
               at(s.per_s, 0.95) * 1e-6, ratio, aim, static_cast<double>(s.hits) / accesses);
  }
  return met ? 0 : 1;
}

}  // namespace
}  // namespace moekv

int main(int argc, char** argv) { return moekv::run(argc, argv); }
