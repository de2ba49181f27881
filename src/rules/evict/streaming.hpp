// streaming (StreamingLLM, Xiao et al. 2023): attention sinks stay for ever, of the rest the oldest goes first. pikv.sl_indicator is the
// paper's formula read as it stands.
#pragma once

#include <cstdint>
#include <string_view>
#include <tuple>

#include "core/field.hpp"
#include "rules/evict/fifo.hpp"
#include "rules/evict/rule.hpp"

namespace moekv::evict {

struct Streaming : OldestFirst {
  static constexpr std::string_view name = "streaming";
  static constexpr std::string_view doc = "StreamingLLM: keep the first tokens and a window of the last";
  static constexpr std::string_view source = "StreamingLLM, arXiv 2309.17453";
  std::uint32_t start = 4;  // positions below are never victims, whatever the protection axis says
  static constexpr auto params = std::tuple{Param{"start", &Streaming::start, "tokens", "initial positions that are never victims", 0, 1e6}};
};

/// u = 1[t > tau] with t the age: keeps the old and evicts the recent, the reverse of StreamingLLM.
struct PikvIndicator {
  static constexpr std::string_view name = "pikv.sl_indicator";
  static constexpr std::string_view doc = "the paper's 1[age > tau] read literally: what is older than tau stays, the recent go; no sinks";
  static constexpr std::string_view source = "PiKV Table 3 as printed";
  static constexpr Family family = Family::score;
  std::uint32_t tau = 64;
  static constexpr auto params = std::tuple{Param{"tau", &PikvIndicator::tau, "tokens", "age from which on a unit is kept (no published value)", 0, 1e9}};

  [[nodiscard]] MOEKV_HD float score(const UnitView& u) const { return u.age > tau ? 1.0F : 0.0F; }
};

}  // namespace moekv::evict
