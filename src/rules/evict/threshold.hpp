// threshold.adaptive: PiKV's AdaKV, a weighted sum of features against a threshold that a controller moves (eviction.md section 2.7).
#pragma once

#include <array>
#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "core/hd.hpp"
#include "rules/evict/h2o.hpp"

namespace moekv::evict {

/// `paper`: theta + gamma (eta* - eta), which feeds back positively: missing lookups raise the threshold that caused them. `corrected`: minus.
enum class ControlSign : std::uint8_t { corrected, paper };
constexpr auto enum_names(ControlSign) { return std::array<std::string_view, 2>{"corrected", "paper"}; }

/// Features, each in [0, 1]: moving average of attention over the largest of the competing units; 1 / (1 + steps since the last access); accesses over
/// the largest; 1 - age / age of the request's first token. The threshold only acts where an eviction is due, and at least the excess goes.
struct ThresholdAdaptive {
  static constexpr std::string_view name = "threshold.adaptive";
  static constexpr std::string_view doc = "AdaKV of the paper: a weighted sum of features; all below a threshold go, which follows the share of hits";
  static constexpr std::string_view source = "PiKV Table 3 (AdaKV) as printed, and its sign corrected";
  static constexpr Family family = Family::score;
  static constexpr bool needs_mass = true;
  static constexpr bool needs_access = true;
  float w_mass = 0.25F, w_recency = 0.25F, w_frequency = 0.25F, w_age = 0.25F, ema = 0.9F;
  float theta = 0.5F, gamma = 0.05F, eta_target = 0.9F;
  std::uint32_t delta = 32;
  ControlSign sign = ControlSign::corrected;
  static constexpr auto params = std::tuple{
      Param{"w_mass", &ThresholdAdaptive::w_mass, "1", "weight of attention (no published weights, nor any other value below)", -1e3, 1e3},
      Param{"w_recency", &ThresholdAdaptive::w_recency, "1", "weight of recency", -1e3, 1e3},
      Param{"w_frequency", &ThresholdAdaptive::w_frequency, "1", "weight of frequency", -1e3, 1e3},
      Param{"w_age", &ThresholdAdaptive::w_age, "1", "weight of youth", -1e3, 1e3},
      Param{"ema", &ThresholdAdaptive::ema, "1", "weight of the past in the average of attention", 0, 1},
      Param{"theta", &ThresholdAdaptive::theta, "1", "initial threshold", 0, 1},
      Param{"gamma", &ThresholdAdaptive::gamma, "1", "gain of the controller", 0, 1},
      Param{"eta_target", &ThresholdAdaptive::eta_target, "1", "share of hits that the controller aims at", 0, 1},
      Param{"delta", &ThresholdAdaptive::delta, "steps", "steps with lookups between two changes of the threshold", 1, 1e9},
      Param{"sign", &ThresholdAdaptive::sign, "", "corrected: negative feedback; paper: as printed, the threshold runs away"}};

  [[nodiscard]] MOEKV_HD float mass(float value, float a) const { return flushed(ema * value + (1.0F - ema) * a); }
  [[nodiscard]] MOEKV_HD float threshold(const Control& c) const { return c.theta < 0 ? theta : c.theta; }
  MOEKV_HD void adapt(Control& c) const {
    if (c.lookups == 0) return;
    const auto eta = static_cast<float>(static_cast<double>(c.hits) / static_cast<double>(c.lookups));
    const float change = gamma * (eta_target - eta);
    const float moved = threshold(c) + (sign == ControlSign::paper ? change : -change);
    c.theta = moved < 0 ? 0.0F : moved > 1 ? 1.0F : moved;
  }
  [[nodiscard]] MOEKV_HD float score(const UnitView& u) const {
    const auto share = [](float x, float of) { return of > 0.0F ? x / of : 0.0F; };
    const float recency = 1.0F / (1.0F + static_cast<float>(u.step - u.access.last));
    const float youth = u.age == 0 ? 1.0F : 1.0F - static_cast<float>(u.age) / static_cast<float>(u.position + u.age);
    return w_mass * share(u.state, u.peers.state) + w_recency * recency +
           w_frequency * share(static_cast<float>(u.access.count), static_cast<float>(u.peers.count)) + w_age * youth;
  }
};

}  // namespace moekv::evict
