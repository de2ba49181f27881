// pikv.quest_mlp and pikv.quest_legacy: what PiKV calls QUEST, in its paper and in its older code. Neither has a query or a bound (quest.evict has).
#pragma once

#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "core/hd.hpp"
#include "core/math.hpp"
#include "core/rng.hpp"
#include "rules/evict/rule.hpp"

namespace moekv::evict {

/// The paper's u = MLP([K, V]). Nobody published weights: unless a file gives some they are drawn from the seed, and it is a control, not a method.
struct PikvQuestMlp : ScoresState {
  static constexpr std::string_view name = "pikv.quest_mlp";
  static constexpr std::string_view doc = "the paper's MLP([K, V]); weights of eviction.weights_path, or drawn from the seed (a control: none are published)";
  static constexpr std::string_view source = "PiKV Table 3 (QUEST) as printed";
  static constexpr bool needs_payload = true;
  static constexpr bool loads_weights = true;
  static constexpr std::uint32_t seeded = 8;  // hidden units of drawn weights
  static constexpr auto params = std::tuple{};

  [[nodiscard]] MOEKV_HD float stored(const Stored& e) const {
    const Perceptron& w = e.weights;
    float out = w.out_bias;
    if (w.hidden == nullptr) {
      for (std::uint32_t h = 0; h < seeded; ++h) out += drawn(e.seed, seeded, h) * (hidden(e, nullptr, h) * scale(e));
    } else {
      for (std::uint32_t h = 0; h < w.n; ++h) out += w.out[h] * hidden(e, &w, h);
    }
    return 1.0F / (1.0F + exp_fixed(-out));
  }

 private:
  [[nodiscard]] static MOEKV_HD float drawn(std::uint64_t seed, std::uint32_t row, std::uint32_t column) {
    return 2.0F * uniform_float(static_cast<std::uint32_t>(hash_words(seed, 0x4D4C50U, row, column))) - 1.0F;
  }
  [[nodiscard]] static MOEKV_HD float scale(const Stored& e) { return 1.0F / sqrt_fixed(static_cast<float>(e.d_k + e.d_v)); }
  /// Output of hidden unit h, after max(0, x); weights null: drawn.
  [[nodiscard]] static MOEKV_HD float hidden(const Stored& e, const Perceptron* w, std::uint32_t h) {
    const auto weight = [&](std::uint32_t i) { return w != nullptr ? w->hidden[h * (e.d_k + e.d_v) + i] : drawn(e.seed, h, i); };
    float x = w != nullptr && w->hidden_bias != nullptr ? w->hidden_bias[h] : 0.0F;
    for (std::uint32_t i = 0; i < e.d_k; ++i) x += weight(i) * e.k[i];
    for (std::uint32_t i = 0; i < e.d_v; ++i) x += weight(e.d_k + i) * e.v[i];
    return x > 0.0F ? x : 0.0F;
  }
};

/// utility = 1 / (1 + reconstruction error) x frequency x decay^gap; what lies below the threshold goes, else the lowest. The error is that of the
/// codec in the entry's key and value, |x - x'|^2 / |x|^2, 0 in raw pages.
struct PikvQuestLegacy {
  static constexpr std::string_view name = "pikv.quest_legacy";
  static constexpr std::string_view doc = "quality after compression x accesses x .95^gap, of PiKV's older code; all below the threshold go, else the lowest";
  static constexpr std::string_view source = "PiKV's code (QUEST)";
  static constexpr Family family = Family::score;
  static constexpr bool needs_access = true;
  static constexpr bool needs_error = true;
  float least_utility = 0.1F;
  static constexpr auto params =
      std::tuple{Param{"least_utility", &PikvQuestLegacy::least_utility, "1", "utility below which a unit goes whenever an eviction is due", 0, 1e6}};

  [[nodiscard]] MOEKV_HD float threshold(const Control&) const { return least_utility; }
  [[nodiscard]] MOEKV_HD float score(const UnitView& u) const {
    const float decay = exp_fixed(-0.0512932944F * static_cast<float>(u.step - u.access.last));  // .95^gap
    return static_cast<float>(u.access.count) * decay / (1.0F + u.state);
  }
};

}  // namespace moekv::evict
