// Rules of accumulated attention. One recurrence serves all: acc <- decay acc + a; they differ in decay, power and normalisation
// (eviction.md section 2.1). The recent window comes from `eviction.protect`.
#pragma once

#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "core/hd.hpp"
#include "rules/evict/rule.hpp"

namespace moekv::evict {

/// State below 2^-100 is 0 (MODEL section 11).
MOEKV_HD float flushed(float x) { return x < 0x1p-100F ? 0.0F : x; }

/// A rule whose state is the sum of attention.
struct SumsMass : ScoresState {
  static constexpr bool needs_mass = true;
  [[nodiscard]] MOEKV_HD float mass(float value, float a) const { return flushed(value + a); }
};

/// Zhang et al. 2023, real-drop form.
struct H2oSum : SumsMass {
  static constexpr std::string_view name = "h2o.sum";
  static constexpr std::string_view doc = "H2O: least attention summed over all queries goes";
  static constexpr std::string_view source = "H2O, arXiv 2306.14048";
  static constexpr auto params = std::tuple{};
};

/// The normalisation of kvpress's ObservedAttention, kept up online.
struct H2oMeanSeen : SumsMass {
  static constexpr std::string_view name = "h2o.mean_seen";
  static constexpr std::string_view doc = "summed attention over the number of queries that saw the entry";
  static constexpr std::string_view source = "H2O normalised by queries seen, arXiv 2306.14048";
  static constexpr auto params = std::tuple{};

  [[nodiscard]] MOEKV_HD float read(const Mass& m) const { return m.seen > 0 ? m.value / static_cast<float>(m.seen) : 0.0F; }
};

/// Decay once a step, PiKV's intent; Scissorhands with a window of one step.
struct H2oDecay : ScoresState {
  static constexpr std::string_view name = "h2o.decay";
  static constexpr std::string_view doc = "attention summed with exponential decay per step";
  static constexpr std::string_view source = "H2O with exponential decay";
  static constexpr bool needs_mass = true;
  float gamma = 0.95F;
  static constexpr auto params = std::tuple{Param{"gamma", &H2oDecay::gamma, "1", "factor on the sum per step; 1 = h2o.sum, 0 = tova", 0, 1}};

  [[nodiscard]] MOEKV_HD float mass(float value, float a) const { return flushed(gamma * value + a); }
  [[nodiscard]] MOEKV_HD float score(const UnitView& u) const { return u.state; }
};

/// KV-Compress without its bias. With several queries a step the square is of their sum.
struct H2oSquares : ScoresState {
  static constexpr std::string_view name = "h2o.sq";
  static constexpr std::string_view doc = "sum of squared attention (KV-Compress)";
  static constexpr std::string_view source = "KV-Compress, arXiv 2410.00161";
  static constexpr bool needs_mass = true;
  static constexpr auto params = std::tuple{};

  [[nodiscard]] MOEKV_HD float mass(float value, float a) const { return flushed(value + a * a); }
  [[nodiscard]] MOEKV_HD float score(const UnitView& u) const { return u.state; }
};

/// Oren et al. 2024: only the newest attention counts.
struct Tova : ScoresState {
  static constexpr std::string_view name = "tova";
  static constexpr std::string_view doc = "TOVA: least attention of the last query goes";
  static constexpr std::string_view source = "TOVA, arXiv 2401.06104";
  static constexpr bool needs_mass = true;
  static constexpr auto params = std::tuple{};

  [[nodiscard]] MOEKV_HD float mass(float, float a) const { return flushed(a); }
  [[nodiscard]] MOEKV_HD float score(const UnitView& u) const { return u.state; }
};

/// The paper's u = a, without accumulation: what TOVA is, under the paper's name for it.
struct PikvH2o : Tova {
  static constexpr std::string_view name = "pikv.h2o";
  static constexpr std::string_view doc = "the paper's u = a read literally: no accumulation, the same choices as tova";
  static constexpr std::string_view source = "PiKV Table 3 as printed";
};

/// The paper's u = sum over layers of a, its reading of DuoAttention. Where every layer holds the same tokens in a shard (layouts local, token, head,
/// replicated) all layers make one decision; under layout expert a shard sums over the layers and copies it happens to hold.
struct PikvDuoLayersum : Tova {
  static constexpr std::string_view name = "pikv.duo_layersum";
  static constexpr std::string_view doc = "the paper's sum over layers of the last attention: one decision for all layers of a token";
  static constexpr std::string_view source = "PiKV Table 3 (DuoAttention) as printed";
  static constexpr bool sums_layers = true;
};

}  // namespace moekv::evict
