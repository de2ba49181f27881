// snapkv, cake, r_kv, quest.evict: rules of what a window of recent queries makes of the group's keys.
#pragma once

#include <algorithm>
#include <array>
#include <string_view>
#include <tuple>
#include <vector>

#include "core/field.hpp"
#include "rules/evict/group_view.hpp"
#include "rules/evict/h2o.hpp"

namespace moekv::evict {

enum class Pool : std::uint8_t { avg, max };
constexpr auto enum_names(Pool) { return std::array<std::string_view, 2>{"avg", "max"}; }

/// Li et al. 2024. Use it with `prefill.queries: last:32`, `eviction.trigger: prefill_end` and `protect.recent: 32`: then the mass is that of the
/// observation window.
struct SnapKv : SumsMass {
  static constexpr std::string_view name = "snapkv";
  static constexpr std::string_view doc = "SnapKV: pooled attention of the prompt's last queries; with prefill.queries last:N and trigger prefill_end";
  static constexpr std::string_view source = "SnapKV, arXiv 2404.14469";
  static constexpr bool scores_groups = true;
  static constexpr bool chooses_once = true;
  std::uint32_t pool_kernel = 7;
  Pool pool = Pool::max;
  static constexpr auto params = std::tuple{Param{"pool_kernel", &SnapKv::pool_kernel, "tokens", "width of the smoothing, odd", 1, 255},
                                            Param{"pool", &SnapKv::pool, "", "smoothing: avg (zero padded) or max"}};

  void score_group(const GroupView& g, float* scores) const {
    for (std::uint32_t i = 0; i < g.n; ++i)
      scores[i] = pool == Pool::max ? most_around(g.states, g.n, i, pool_kernel) : mean_around(g.states, g.n, i, pool_kernel);
  }
};

/// Qin et al. 2025, the indicator of entries (the layer budgets are the allocator `cake`): attention of the last queries over the group, its mean
/// plus `gamma` times its variance, smoothed. The window's own entries go last.
struct Cake : ScoresState {
  static constexpr std::string_view name = "cake";
  static constexpr std::string_view doc = "CAKE: smallest mean + gamma variance of the attention of the last queries goes";
  static constexpr std::string_view source = "CAKE, arXiv 2503.12491";
  static constexpr bool scores_groups = true;
  std::uint32_t window = 32, pool_kernel = 5;
  float gamma = 200.0F;
  static constexpr auto params = std::tuple{Param{"window", &Cake::window, "tokens", "last queries that are looked at", 1, 4096},
                                            Param{"pool_kernel", &Cake::pool_kernel, "tokens", "width of the smoothing (mean, zero padded), odd", 1, 255},
                                            Param{"gamma", &Cake::gamma, "1", "weight of the variance", 0, 1e6}};

  [[nodiscard]] constexpr GroupReads reads() const { return {true, false, window}; }
  void score_group(const GroupView& g, float* scores) const {
    const std::uint32_t n = g.prefix(window), queries = g.n_queries;
    std::vector<float> row(g.n), a(std::size_t{queries} * n, 0.0F), indicator(n, 0.0F);
    for (std::uint32_t j = 0; j < queries; ++j) {
      for (std::uint32_t h = 0; h < g.q_group; ++h) {
        logits_of(g, j, h, g.n, row.data());
        softmax(row.data(), g.n);
        for (std::uint32_t i = 0; i < n; ++i) a[std::size_t{j} * n + i] += row[i] / static_cast<float>(g.q_group);
      }
    }
    for (std::uint32_t i = 0; i < n && queries > 0; ++i) {
      float mean = 0, squares = 0;
      for (std::uint32_t j = 0; j < queries; ++j) mean += a[std::size_t{j} * n + i] / static_cast<float>(queries);
      for (std::uint32_t j = 0; j < queries; ++j) squares += (a[std::size_t{j} * n + i] - mean) * (a[std::size_t{j} * n + i] - mean);
      indicator[i] = mean + (queries > 1 ? gamma * squares / static_cast<float>(queries - 1) : 0.0F);
    }
    std::fill_n(scores, g.n, goes_last);
    for (std::uint32_t i = 0; i < n; ++i) scores[i] = mean_around(indicator.data(), n, i, pool_kernel);
  }
};

/// Cai et al. 2025: attention of the last queries against redundancy among keys, of which the newest duplicate is spared.
struct RKv : ScoresState {
  static constexpr std::string_view name = "r_kv";
  static constexpr std::string_view doc = "R-KV: little attention of the last queries and a key like others goes; the window's own entries go last";
  static constexpr std::string_view source = "R-KV, arXiv 2505.24133";
  static constexpr bool scores_groups = true;
  std::uint32_t window = 8, pool_kernel = 7;
  float lambda = 0.07F, duplicate = 0.5F;
  static constexpr auto params = std::tuple{Param{"window", &RKv::window, "tokens", "last queries that are looked at", 1, 4096},
                                            Param{"pool_kernel", &RKv::pool_kernel, "tokens", "width of the maximum over neighbours, odd", 1, 255},
                                            Param{"lambda", &RKv::lambda, "1", "weight of attention against redundancy", 0, 1},
                                            Param{"duplicate", &RKv::duplicate, "1", "cosine from which on two keys are duplicates", -1, 1}};

  [[nodiscard]] constexpr GroupReads reads() const { return {true, false, window}; }
  void score_group(const GroupView& g, float* scores) const {
    const std::uint32_t n = g.prefix(window);
    std::vector<float> attention(n, 0.0F), row(n), likeness(g.n, 0.0F);
    for (std::uint32_t j = 0; j < g.n_queries; ++j) {
      std::vector<float> most(n, -std::numeric_limits<float>::infinity());
      for (std::uint32_t h = 0; h < g.q_group; ++h) {
        logits_of(g, j, h, n, row.data());
        for (std::uint32_t i = 0; i < n; ++i) most[i] = std::max(most[i], row[i]);
      }
      softmax(most.data(), n);
      for (std::uint32_t i = 0; i < n; ++i) attention[i] += most[i] / static_cast<float>(g.n_queries);
    }
    redundancy(g, likeness);
    std::fill_n(scores, g.n, goes_last);
    for (std::uint32_t i = 0; i < n; ++i) scores[i] = lambda * most_around(attention.data(), n, i, pool_kernel) - (1.0F - lambda) * likeness[i];
  }

 private:
  /// Softmax over entries of the mean cosine with every other key; the last duplicate of each key is not counted for it.
  void redundancy(const GroupView& g, std::vector<float>& out) const {
    std::vector<float> unit(std::size_t{g.n} * g.d_k), cosine(g.n);
    for (std::uint32_t i = 0; i < g.n; ++i) {
      const float norm = norm_of(g.key(i), g.d_k);
      for (std::uint32_t d = 0; d < g.d_k; ++d) unit[std::size_t{i} * g.d_k + d] = norm > 0 ? g.key(i)[d] / norm : 0.0F;
    }
    for (std::uint32_t i = 0; i < g.n; ++i) {
      std::uint32_t spared = g.n;
      for (std::uint32_t j = 0; j < g.n; ++j) {
        cosine[j] = j == i ? 0.0F : dot(&unit[std::size_t{i} * g.d_k], &unit[std::size_t{j} * g.d_k], g.d_k);
        if (j != i && cosine[j] > duplicate) spared = j;
      }
      for (std::uint32_t j = 0; j < g.n; ++j) out[j] += j == spared ? 0.0F : cosine[j] / static_cast<float>(g.n);
    }
    softmax(out.data(), g.n);
  }
};

/// Quest's bound of a page (Tang et al. 2024), sum over channels of the larger of q min and q max, as a score of residence: averaged over recent
/// queries with exponential weights and over the query heads.
struct QuestEvict : ScoresState {
  static constexpr std::string_view name = "quest.evict";
  static constexpr std::string_view doc = "smallest moving average of Quest's bound on the logits of a page goes";
  static constexpr std::string_view source = "Quest, arXiv 2406.10774, with an EMA as ArkVale";
  static constexpr bool scores_groups = true;
  static constexpr bool scores_pages = true;
  float ema = 0.9F;
  std::uint32_t queries = 32;
  static constexpr auto params = std::tuple{Param{"ema", &QuestEvict::ema, "1", "weight of the past (no published value); 0: the last query alone", 0, 1},
                                            Param{"queries", &QuestEvict::queries, "tokens", "recent queries that are averaged", 1, 4096}};

  [[nodiscard]] constexpr GroupReads reads() const { return {true, false, queries}; }
  void score_group(const GroupView& g, float* scores) const {
    const std::uint32_t n_pages = g.n > 0 ? *std::max_element(g.pages, g.pages + g.n) + 1 : 0;
    constexpr float infinity = std::numeric_limits<float>::infinity();
    std::vector<float> low(std::size_t{n_pages} * g.d_k, infinity), high(low.size(), -infinity);
    for (std::uint32_t i = 0; i < g.n; ++i) {
      for (std::uint32_t d = 0; d < g.d_k; ++d) {
        float &least = low[std::size_t{g.pages[i]} * g.d_k + d], &most = high[std::size_t{g.pages[i]} * g.d_k + d];
        least = std::min(least, g.key(i)[d]);
        most = std::max(most, g.key(i)[d]);
      }
    }
    std::vector<float> average(n_pages, 0.0F);
    for (std::uint32_t j = 0; j < g.n_queries; ++j) {
      for (std::uint32_t p = 0; p < n_pages; ++p) {
        const float bound = bound_of(g, j, &low[std::size_t{p} * g.d_k], &high[std::size_t{p} * g.d_k]);
        average[p] = j == 0 ? bound : ema * average[p] + (1.0F - ema) * bound;
      }
    }
    for (std::uint32_t i = 0; i < g.n; ++i) scores[i] = average[g.pages[i]];
  }

 private:
  /// Of query j, mean over its heads.
  [[nodiscard]] static float bound_of(const GroupView& g, std::uint32_t j, const float* low, const float* high) {
    float sum = 0;
    for (std::uint32_t h = 0; h < g.q_group; ++h) {
      const float* q = g.query(j, h);
      for (std::uint32_t d = 0; d < g.d_k; ++d) sum += std::max(q[d] * low[d], q[d] * high[d]);
    }
    return sum / static_cast<float>(g.q_group);
  }
};

}  // namespace moekv::evict
