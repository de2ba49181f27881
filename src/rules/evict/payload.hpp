// Rules that score an entry once, by its own key and value, when it is stored: no attention, no accesses. With several KV heads in a head
// group the state is the mean over them.
#pragma once

#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "core/hd.hpp"
#include "core/math.hpp"
#include "core/rng.hpp"
#include "rules/evict/rule.hpp"

namespace moekv::evict {

MOEKV_HD float norm_of(const float* x, std::uint32_t d) {
  float sum = 0;
  for (std::uint32_t i = 0; i < d; ++i) sum += x[i] * x[i];
  return sqrt_fixed(sum);
}

/// Devoto et al. 2024: keys of small norm attract attention.
struct Knorm {
  static constexpr std::string_view name = "knorm";
  static constexpr std::string_view doc = "largest key norm goes";
  static constexpr std::string_view source = "L2 norm, arXiv 2406.11430";
  static constexpr Family family = Family::score;
  static constexpr bool needs_payload = true;
  static constexpr auto params = std::tuple{};

  [[nodiscard]] MOEKV_HD float stored(const float* k, std::uint32_t d_k, const float*, std::uint32_t, std::uint64_t) const { return norm_of(k, d_k); }
  [[nodiscard]] MOEKV_HD float score(const UnitView& u) const { return -u.state; }
};

/// PagedEviction (2026): page score mean of |v| / |k|. Its trigger, one page each time the newest fills, is `unit: page`.
struct PagedEviction {
  static constexpr std::string_view name = "paged_eviction";
  static constexpr std::string_view doc = "smallest |v| / |k| goes, as a mean over a page for page units";
  static constexpr std::string_view source = "PagedEviction, arXiv 2509.04377";
  static constexpr Family family = Family::score;
  static constexpr bool prefers_pages = true;
  static constexpr bool needs_payload = true;
  static constexpr auto params = std::tuple{};

  [[nodiscard]] MOEKV_HD float stored(const float* k, std::uint32_t d_k, const float* v, std::uint32_t d_v, std::uint64_t) const {
    const float norm = norm_of(k, d_k);
    return norm > 0.0F ? norm_of(v, d_v) / norm : 0.0F;
  }
  [[nodiscard]] MOEKV_HD float score(const UnitView& u) const { return u.state; }
};

/// The paper's u = MLP([K, V]). Nobody published weights: they are drawn from the seed, so this is a control, not a method.
struct PikvQuestMlp {
  static constexpr std::string_view name = "pikv.quest_mlp";
  static constexpr std::string_view doc = "the paper's MLP([K, V]) with weights drawn from the seed (a control: no trained weights exist)";
  static constexpr std::string_view source = "PiKV Table 3 (QUEST) as printed";
  static constexpr Family family = Family::score;
  static constexpr bool needs_payload = true;
  static constexpr std::uint32_t hidden = 8;
  static constexpr auto params = std::tuple{};

  [[nodiscard]] MOEKV_HD float stored(const float* k, std::uint32_t d_k, const float* v, std::uint32_t d_v, std::uint64_t seed) const {
    const auto weight = [&](std::uint32_t row, std::uint32_t column) {
      return 2.0F * uniform_float(static_cast<std::uint32_t>(hash_words(seed, 0x4D4C50U, row, column))) - 1.0F;
    };
    const float scale = 1.0F / sqrt_fixed(static_cast<float>(d_k + d_v));
    float out = 0;
    for (std::uint32_t h = 0; h < hidden; ++h) {
      float x = 0;
      for (std::uint32_t i = 0; i < d_k; ++i) x += weight(h, i) * k[i];
      for (std::uint32_t i = 0; i < d_v; ++i) x += weight(h, d_k + i) * v[i];
      out += weight(hidden, h) * (x > 0.0F ? x * scale : 0.0F);
    }
    return 1.0F / (1.0F + exp_fixed(-out));
  }
  [[nodiscard]] MOEKV_HD float score(const UnitView& u) const { return u.state; }
};

}  // namespace moekv::evict
