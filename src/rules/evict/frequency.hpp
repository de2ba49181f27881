// Rules of access counts and times: scores from the Access of a page, lowest goes first (eviction.md sections 2.6, 5.2, 4.2).
#pragma once

#include <array>
#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "core/hd.hpp"
#include "core/math.hpp"
#include "rules/evict/h2o.hpp"

namespace moekv::evict {

struct Lfu {
  static constexpr std::string_view name = "lfu";
  static constexpr std::string_view doc = "least often accessed unit goes, among equals the oldest; under dense access it evicts the newest for ever";
  static constexpr std::string_view source = "classical";
  static constexpr Family family = Family::score;
  static constexpr bool needs_access = true;
  static constexpr auto params = std::tuple{};

  [[nodiscard]] MOEKV_HD float score(const UnitView& u) const { return static_cast<float>(u.access.count); }
};

/// CRF of Lee et al. 2001: heat 1 + heat 2^(-gap / half life) at an access.
struct Lrfu {
  static constexpr std::string_view name = "lrfu";
  static constexpr std::string_view doc = "LRFU: access count that halves every half_life steps";
  static constexpr std::string_view source = "LRFU, IEEE Trans. Computers 2001";
  static constexpr Family family = Family::score;
  static constexpr bool needs_access = true;
  float half_life = 128.0F;
  static constexpr auto params = std::tuple{Param{"half_life", &Lrfu::half_life, "steps", "steps after which an access counts half", 1e-3, 1e9}};

  [[nodiscard]] MOEKV_HD float decayed(const Access& a, std::uint32_t now) const {
    return a.heat * exp_fixed(-0.693147181F * static_cast<float>(now - a.last) / half_life);
  }
  [[nodiscard]] MOEKV_HD float heat(const Access& a, std::uint32_t now) const { return 1.0F + decayed(a, now); }
  [[nodiscard]] MOEKV_HD float score(const UnitView& u) const { return decayed(u.access, static_cast<std::uint32_t>(u.step)); }
};

/// The paper's u = -r + lambda f, without decay.
struct LruPlusRaw {
  static constexpr std::string_view name = "lru_plus.raw";
  static constexpr std::string_view doc = "the paper's -recency + lambda frequency; keeps a dead unit for lambda f steps";
  static constexpr std::string_view source = "PiKV Table 3 (LRU+) as printed";
  static constexpr Family family = Family::score;
  static constexpr bool needs_access = true;
  float lambda = 1.0F;
  static constexpr auto params = std::tuple{Param{"lambda", &LruPlusRaw::lambda, "steps", "steps that one access is worth (no published value)", 0, 1e6}};

  [[nodiscard]] MOEKV_HD float score(const UnitView& u) const {
    return lambda * static_cast<float>(u.access.count) - static_cast<float>(u.step - u.access.last);
  }
};

/// The forms of PiKV's code: `now`: last / now and state / largest state; `peers`: last / latest last and the state as it is.
enum class LruPlusForm : std::uint8_t { now, peers };
constexpr auto enum_names(LruPlusForm) { return std::array<std::string_view, 2>{"now", "peers"}; }

struct LruPlusNorm : SumsMass {
  static constexpr std::string_view name = "lru_plus.norm";
  static constexpr std::string_view doc = ".3 recency + .3 frequency + .4 importance, each normalised, as PiKV's code has it; importance is attention mass";
  static constexpr std::string_view source = "PiKV's code (LRU+)";
  static constexpr bool needs_access = true;
  LruPlusForm form = LruPlusForm::now;
  static constexpr auto params = std::tuple{Param{"form", &LruPlusNorm::form, "", "now: of the code's module; peers: of its older file"}};

  [[nodiscard]] MOEKV_HD float score(const UnitView& u) const {
    const auto share = [](float x, float of) { return of > 0.0F ? x / of : 1.0F; };
    const float recency = share(static_cast<float>(u.access.last), form == LruPlusForm::now ? static_cast<float>(u.step) : static_cast<float>(u.peers.last));
    const float importance = form == LruPlusForm::now ? share(u.state, u.peers.state) : u.state;
    return 0.3F * recency + 0.3F * share(static_cast<float>(u.access.count), static_cast<float>(u.peers.count)) + 0.4F * importance;
  }
};

/// Experts of a layer come back when the layer does: the unit of the layer whose turn is farthest goes.
struct LeastStaleCyclic {
  static constexpr std::string_view name = "least_stale.cyclic_layer";
  static constexpr std::string_view doc = "the unit of the layer whose next turn is farthest goes (after a step: the last layer); needs scope shard to act";
  static constexpr std::string_view source = "SpecMD Least-Stale, arXiv 2602.03921";
  static constexpr Family family = Family::score;
  static constexpr bool needs_access = true;
  static constexpr auto params = std::tuple{};

  [[nodiscard]] MOEKV_HD float score(const UnitView& u) const { return -static_cast<float>(u.layer); }
};

/// The unit whose next access is expected farthest ahead goes; heat is the moving average of its gaps.
struct LeastStaleInterval {
  static constexpr std::string_view name = "least_stale.ewma_interval";
  static constexpr std::string_view doc = "the unit whose expected next access, last + mean gap, is farthest ahead goes";
  static constexpr std::string_view source = "SpecMD Least-Stale by mean gap, arXiv 2602.03921";
  static constexpr Family family = Family::score;
  static constexpr bool needs_access = true;
  float alpha = 0.5F;
  static constexpr auto params = std::tuple{Param{"alpha", &LeastStaleInterval::alpha, "1", "weight of the newest gap (no published value)", 0, 1}};

  [[nodiscard]] MOEKV_HD float heat(const Access& a, std::uint32_t now) const {
    return alpha * static_cast<float>(now - a.last) + (1.0F - alpha) * a.heat;
  }
  [[nodiscard]] MOEKV_HD float score(const UnitView& u) const {
    return static_cast<float>(u.step) - static_cast<float>(u.access.last) - u.access.heat;
  }
};

}  // namespace moekv::evict
