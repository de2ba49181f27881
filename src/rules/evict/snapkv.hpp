// snapkv (Li et al. 2024): attention of an observation window at the prompt's end, smoothed over neighbouring tokens, chosen once.
#pragma once

#include <array>
#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "core/hd.hpp"
#include "rules/evict/rule.hpp"

namespace moekv::evict {

enum class Pool : std::uint8_t { avg, max };
constexpr auto enum_names(Pool) { return std::array<std::string_view, 2>{"avg", "max"}; }

/// Use it with `prefill.queries: last:32`, `eviction.trigger: prefill_end` and `protect.recent: 32`: then the mass is that of the window.
struct SnapKv {
  static constexpr std::string_view name = "snapkv";
  static constexpr std::string_view doc = "SnapKV: pooled attention of the prompt's last queries; with prefill.queries last:N and trigger prefill_end";
  static constexpr std::string_view source = "SnapKV, arXiv 2404.14469";
  static constexpr Family family = Family::score;
  static constexpr bool needs_mass = true;
  std::uint32_t pool_kernel = 7;
  Pool pool = Pool::max;
  static constexpr auto params = std::tuple{Param{"pool_kernel", &SnapKv::pool_kernel, "tokens", "width of the smoothing, odd", 1, 255},
                                            Param{"pool", &SnapKv::pool, "", "smoothing: avg (zero padded) or max"}};

  [[nodiscard]] MOEKV_HD float mass(float value, float a) const { return value + a < 0x1p-100F ? 0.0F : value + a; }
  /// Smoothed state of entry i of n entries in order of position.
  [[nodiscard]] MOEKV_HD float pooled(const float* states, std::uint32_t n, std::uint32_t i) const {
    const std::uint32_t half = pool_kernel / 2;
    const std::uint32_t begin = i > half ? i - half : 0, end = i + half + 1 < n ? i + half + 1 : n;
    float sum = 0, most = states[i];
    for (std::uint32_t j = begin; j < end; ++j) {
      sum += states[j];
      most = states[j] > most ? states[j] : most;
    }
    return pool == Pool::max ? most : sum / static_cast<float>(2 * half + 1);
  }
  [[nodiscard]] MOEKV_HD float score(const UnitView& u) const { return u.state; }
};

}  // namespace moekv::evict
