// quest: of every (request, layer, shard, head group) a query reads the pages whose key bounds promise the largest q.k (eviction.md section 2.3).
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "core/hd.hpp"
#include "rules/select/rule.hpp"

namespace moekv::select {

/// The two published code paths differ: `kernel` reads the last page and the best budget - 1 of the others, `accuracy` the best max(3, budget)
/// of all.
enum class QuestVariant : std::uint8_t { kernel, accuracy };
constexpr auto enum_names(QuestVariant) { return std::array<std::string_view, 2>{"kernel", "accuracy"}; }

/// Tang et al. 2024. The original chooses per query head; here per head group, so one group per KV head comes closest (page.head_groups).
struct Quest {
  static constexpr std::string_view name = "quest";
  static constexpr std::string_view source = "Quest, arXiv 2406.10774";
  static constexpr std::string_view doc = "pages with the largest bound sum_d max(q_d min_d, q_d max_d) on q.k; nothing is evicted";
  static constexpr bool needs_bounds = true;
  std::uint32_t budget_pages = 64;
  QuestVariant variant = QuestVariant::kernel;
  std::uint32_t dense_layers = 2;
  HeadReducer heads = HeadReducer::sum;
  PromptReads prompt = PromptReads::dense;
  static constexpr auto params = std::tuple{
      Param{"budget_pages", &Quest::budget_pages, "pages", "pages that a query reads of each (request, layer, shard, head group)", 1, 1 << 20},
      Param{"variant", &Quest::variant, "",
            "kernel: the page of the newest token, and the best budget_pages - 1 of the others; accuracy: the best max(3, budget_pages) of all"},
      Param{"dense_layers", &Quest::dense_layers, "", "model layers below this one read every page", 0, 65536},
      Param{"heads", &Quest::heads, "", "scores of the query heads of a head group -> page"},
      Param{"prompt", &Quest::prompt, "", "what queries of prompt tokens read: every page, or the selected ones"}};

  friend bool operator==(const Quest&, const Quest&) = default;
  [[nodiscard]] MOEKV_HD float score(const float* q, const float* low, const float* high, std::uint32_t d) const {
    return upper_bound(q, low, high, d);
  }
  [[nodiscard]] Pick pick() const {
    if (variant == QuestVariant::kernel) return {budget_pages - 1, true};
    return {budget_pages > 3U ? budget_pages : 3U, false};
  }
};

}  // namespace moekv::select
