// Offline bounds (eviction.md section 6): Belady for accesses, and for attention mass the best visible sets, the exact assignment of entries
// to forced evictions, and the greedy choice. They see the future, so they bound online rules on the same open-loop trace.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

namespace moekv::evict {

struct AccessOutcome {
  std::vector<bool> hit;                 // [accesses]
  std::vector<std::uint32_t> evictions;  // units, in order
  std::vector<std::uint32_t> resident;   // at the end, in order of storing
};

/// Belady's rule: of the residents the one whose next access is farthest goes, among equals the one stored last. `bypass`: a unit whose own
/// next access is farthest is not stored. Units are below n_units.
[[nodiscard]] inline AccessOutcome belady(const std::vector<std::uint32_t>& accesses, std::uint32_t n_units, std::uint32_t capacity, bool bypass) {
  constexpr std::uint32_t never = std::numeric_limits<std::uint32_t>::max();
  std::vector<std::uint32_t> next(accesses.size(), never), last(n_units, never);
  for (std::size_t t = accesses.size(); t-- > 0;) {
    next[t] = last[accesses[t]];
    last[accesses[t]] = static_cast<std::uint32_t>(t);
  }
  AccessOutcome out;
  std::vector<std::uint32_t> upcoming(n_units, never);  // of residents
  for (std::size_t t = 0; t < accesses.size(); ++t) {
    const std::uint32_t u = accesses[t];
    const auto at = std::find(out.resident.begin(), out.resident.end(), u);
    upcoming[u] = next[t];
    out.hit.push_back(at != out.resident.end());
    if (at != out.resident.end()) continue;
    if (out.resident.size() >= capacity) {
      auto victim = out.resident.begin();
      for (auto r = out.resident.begin(); r != out.resident.end(); ++r) {
        if (upcoming[*r] >= upcoming[*victim]) victim = r;
      }
      if (bypass && (victim == out.resident.end() || next[t] >= upcoming[*victim])) continue;
      out.evictions.push_back(*victim);
      out.resident.erase(victim);
    }
    out.resident.push_back(u);
  }
  return out;
}

/// Attention of full history by step: rows[t][i] for every entry stored by step t, in order of storing; rows never become shorter. One entry a
/// step is decoding; a step may store more.
using AttentionRows = std::vector<std::vector<double>>;

/// One forced eviction: entry and the step after which it leaves.
struct ForcedEviction {
  std::uint32_t entry, step;
};

/// Mass that queries after `step` still give to each entry: suffix[i] = sum of rows[t][i], t > step.
[[nodiscard]] inline std::vector<double> remaining_mass(const AttentionRows& rows, std::size_t step) {
  std::vector<double> sum(rows.empty() ? 0 : rows.back().size(), 0.0);
  for (std::size_t t = step + 1; t < rows.size(); ++t) {
    for (std::size_t i = 0; i < rows[t].size(); ++i) sum[i] += rows[t][i];
  }
  return sum;
}

/// Mass lost when each step sees its best `budget` entries and as many as it stores, as if all were kept: bounds rules that can bring entries
/// back. Nothing is out of sight up to step `first`.
[[nodiscard]] inline double select_lost(const AttentionRows& rows, std::size_t budget, std::size_t first = 0) {
  double lost = 0;
  for (std::size_t t = first + 1; t < rows.size(); ++t) {
    std::vector<double> sorted = rows[t];
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    for (std::size_t i = budget + rows[t].size() - rows[t - 1].size(); i < sorted.size(); ++i) lost += sorted[i];
  }
  return lost;
}

/// The steps after which an entry must leave, one element an entry: from step `first` on each ends with at most `budget` entries, the last excepted.
[[nodiscard]] inline std::vector<std::uint32_t> forced_steps(const AttentionRows& rows, std::size_t budget, std::size_t first = 0) {
  std::vector<std::uint32_t> out;
  for (std::size_t t = first; t + 1 < rows.size(); ++t) {
    while (out.size() + budget < rows[t].size()) out.push_back(static_cast<std::uint32_t>(t));
  }
  return out;
}

/// Calls f(t, remaining mass after step t) for the steps of an ascending list, from the last to the first.
template <class F>
void for_each_remaining(const AttentionRows& rows, const std::vector<std::uint32_t>& steps, F&& f) {
  std::vector<double> sum(rows.empty() ? 0 : rows.back().size(), 0.0);
  std::size_t added = rows.size();  // rows [added, end) are in the sum
  for (std::size_t j = steps.size(); j-- > 0;) {
    for (; added > steps[j] + std::size_t{1}; --added) {
      for (std::size_t i = 0; i < rows[added - 1].size(); ++i) sum[i] += rows[added - 1][i];
    }
    f(j, sum);
  }
}

/// After each step the entries with the least remaining mass go, among equals the oldest. Not optimal.
[[nodiscard]] inline std::vector<ForcedEviction> greedy_evictions(const AttentionRows& rows, std::size_t budget, std::size_t first = 0) {
  const std::vector<std::uint32_t> steps = forced_steps(rows, budget, first);
  std::vector<ForcedEviction> out;
  std::vector<std::uint32_t> resident;
  std::uint32_t stored = 0;
  std::vector<double> left;
  for (std::size_t j = 0; j < steps.size(); ++j) {
    const std::uint32_t t = steps[j];
    for (; stored < rows[t].size(); ++stored) resident.push_back(stored);
    if (j == 0 || steps[j - 1] != t) left = remaining_mass(rows, t);
    const auto victim = std::min_element(resident.begin(), resident.end(), [&](std::uint32_t a, std::uint32_t b) { return left[a] < left[b]; });
    out.push_back({*victim, t});
    resident.erase(victim);
  }
  return out;
}

/// The evictions that lose least: minimum-cost assignment of the forced evictions to entries stored before them. Hungarian algorithm with
/// potentials, O(evictions^2 entries).
// NOLINTNEXTLINE(readability-function-size): one algorithm over one set of arrays
[[nodiscard]] inline std::vector<ForcedEviction> mass_evictions(const AttentionRows& rows, std::size_t budget, std::size_t first = 0) {
  const std::vector<std::uint32_t> steps = forced_steps(rows, budget, first);
  const std::size_t slots = steps.size(), n = slots > 0 ? rows.back().size() : 0;
  constexpr double impossible = 1e18;
  std::vector<std::vector<double>> cost(slots);
  for_each_remaining(rows, steps, [&](std::size_t j, const std::vector<double>& left) {
    cost[j] = left;
    for (std::size_t i = rows[steps[j]].size(); i < n; ++i) cost[j][i] = impossible;
  });
  // Rows are slots, columns entries, both from 1; owner[i] is the slot that entry i serves.
  std::vector<double> slot_potential(slots + 1, 0.0), entry_potential(n + 1, 0.0);
  std::vector<std::size_t> owner(n + 1, 0), from(n + 1, 0);
  for (std::size_t j = 1; j <= slots; ++j) {
    owner[0] = j;
    std::size_t column = 0;
    std::vector<double> slack(n + 1, std::numeric_limits<double>::infinity());
    std::vector<bool> used(n + 1, false);
    while (owner[column] != 0) {
      used[column] = true;
      const std::size_t slot = owner[column];
      double delta = std::numeric_limits<double>::infinity();
      std::size_t best = 0;
      for (std::size_t i = 1; i <= n; ++i) {
        if (used[i]) continue;
        const double reduced = cost[slot - 1][i - 1] - slot_potential[slot] - entry_potential[i];
        if (reduced < slack[i]) {
          slack[i] = reduced;
          from[i] = column;
        }
        if (slack[i] < delta) {
          delta = slack[i];
          best = i;
        }
      }
      for (std::size_t i = 0; i <= n; ++i) {
        if (used[i]) {
          slot_potential[owner[i]] += delta;
          entry_potential[i] -= delta;
        } else {
          slack[i] -= delta;
        }
      }
      column = best;
    }
    for (; column != 0; column = from[column]) owner[column] = owner[from[column]];
  }
  std::vector<ForcedEviction> out;
  for (std::size_t i = 1; i <= n; ++i) {
    if (owner[i] != 0) out.push_back({static_cast<std::uint32_t>(i - 1), steps[owner[i] - 1]});
  }
  std::sort(out.begin(), out.end(), [](const ForcedEviction& a, const ForcedEviction& b) { return std::pair(a.step, a.entry) < std::pair(b.step, b.entry); });
  return out;
}

/// Mass that the given evictions lose.
[[nodiscard]] inline double lost_mass(const AttentionRows& rows, const std::vector<ForcedEviction>& evictions) {
  double lost = 0;
  for (const ForcedEviction& e : evictions) {
    for (std::size_t t = e.step + std::size_t{1}; t < rows.size(); ++t) lost += e.entry < rows[t].size() ? rows[t][e.entry] : 0.0;
  }
  return lost;
}

}  // namespace moekv::evict
