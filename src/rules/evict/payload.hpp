// Rules that score an entry once, by its own key and value, when it is stored: no attention, no accesses. With several KV heads in a head
// group the state is the mean over them.
#pragma once

#include <string_view>
#include <tuple>

#include "core/hd.hpp"
#include "rules/evict/rule.hpp"
#include "rules/evict/vector.hpp"

namespace moekv::evict {

/// Devoto et al. 2024: keys of small norm attract attention.
struct Knorm {
  static constexpr std::string_view name = "knorm";
  static constexpr std::string_view doc = "largest key norm goes";
  static constexpr std::string_view source = "L2 norm, arXiv 2406.11430";
  static constexpr Family family = Family::score;
  static constexpr bool needs_payload = true;
  static constexpr auto params = std::tuple{};

  [[nodiscard]] MOEKV_HD float stored(const Stored& e) const { return norm_of(e.k, e.d_k); }
  [[nodiscard]] MOEKV_HD float score(const UnitView& u) const { return -u.state; }
};

/// PagedEviction (2026): page score mean of |v| / |k|. Its trigger, one page each time the newest fills, is `unit: page`.
struct PagedEviction : ScoresState {
  static constexpr std::string_view name = "paged_eviction";
  static constexpr std::string_view doc = "smallest |v| / |k| goes, as a mean over a page for page units";
  static constexpr std::string_view source = "PagedEviction, arXiv 2509.04377";
  static constexpr bool prefers_pages = true;
  static constexpr bool needs_payload = true;
  static constexpr auto params = std::tuple{};

  [[nodiscard]] MOEKV_HD float stored(const Stored& e) const {
    const float norm = norm_of(e.k, e.d_k);
    return norm > 0.0F ? norm_of(e.v, e.d_v) / norm : 0.0F;
  }
};

}  // namespace moekv::evict
