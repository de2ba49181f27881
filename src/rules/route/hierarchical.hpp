// hierarchical: first the best groups of experts, then the best experts inside them; the paper's R_H.
#pragma once

#include <array>
#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "core/hd.hpp"
#include "rules/route/gate.hpp"

namespace moekv::route {

enum class GroupScore : std::uint8_t { max, sum2, mean };
constexpr auto enum_names(GroupScore) { return std::array<std::string_view, 3>{"max", "sum2", "mean"}; }

struct Hierarchical {
  static constexpr std::string_view name = "hierarchical";
  static constexpr std::string_view doc = "two stages: the best topk_group of n_group runs of experts, then the top-k inside them (R_H)";
  static constexpr std::string_view source = "PiKV R_H";
  static constexpr bool needs_logits = true;
  std::uint32_t n_group = 4, topk_group = 0;
  GroupScore group_score = GroupScore::sum2;
  static constexpr auto params =
      std::tuple{Param{"n_group", &Hierarchical::n_group, "", "groups of experts, at most one per expert", 1, max_groups},
                 Param{"topk_group", &Hierarchical::topk_group, "", "groups that a token may use; 0 = as few as hold its experts", 0, max_groups},
                 Param{"group_score", &Hierarchical::group_score, "", "largest, sum of the two largest, or mean gate score of a group"}};

  [[nodiscard]] MOEKV_HD std::uint32_t groups(const Geometry& g) const { return n_group < g.n_experts ? n_group : g.n_experts; }
  [[nodiscard]] MOEKV_HD std::uint32_t keep(const Geometry& g) const {
    const std::uint32_t smallest = g.n_experts / groups(g), fewest = (g.top_k + smallest - 1) / smallest;
    const std::uint32_t wanted = topk_group > 0 ? topk_group : fewest;
    return wanted < groups(g) ? wanted : groups(g);
  }
  /// Why the rule cannot choose here, or null.
  [[nodiscard]] const char* refuse(const Geometry& g) const {
    if (topk_group > groups(g)) return "topk_group is above n_group";
    if (keep(g) < groups(g) && keep(g) * (g.n_experts / groups(g)) < g.top_k) return "the kept groups hold fewer experts than a token chooses";
    return nullptr;
  }

  MOEKV_HD void choose(const Geometry& g, const TokenView& token, Choice out) const {
    float shift = -1e38F;
    for (std::uint32_t e = 0; e < g.n_experts; ++e) shift = finite_logit(token.logits[e]) > shift ? finite_logit(token.logits[e]) : shift;
    const auto score_at = [&](std::uint32_t e) { return score(g.gate.score, finite_logit(token.logits[e]), shift); };
    const std::uint64_t mask = best_groups(groups(g), keep(g), g.n_experts, [&](std::uint32_t begin, std::uint32_t end) {
      float first = 0.0F, second = 0.0F, sum = 0.0F;
      for (std::uint32_t e = begin; e < end; ++e) {
        const float s = score_at(e);
        second = s > first ? first : (s > second ? s : second);
        first = s > first ? s : first;
        sum += s;
      }
      return group_score == GroupScore::max ? first : group_score == GroupScore::sum2 ? first + second : sum / static_cast<float>(end - begin);
    });
    select_masked(
        mask, groups(g), g.n_experts, [&](std::uint32_t e) { return finite_logit(token.logits[e]); }, TopList{out.ids, out.weights, g.top_k});
    weigh(g.gate, token.logits, g.n_experts, 1.0F, g.top_k, out.ids, out.weights);
  }
};

}  // namespace moekv::route
