// streaming (StreamingLLM, Xiao et al. 2023): attention sinks stay for ever, of the rest the oldest goes first.
#pragma once

#include <cstdint>
#include <tuple>

#include "core/field.hpp"
#include "rules/evict/rule.hpp"

namespace moekv::evict {

struct Streaming {
  static constexpr std::string_view name = "streaming";
  static constexpr std::string_view doc = "StreamingLLM: keep the first tokens and a window of the last";
  static constexpr Family family = Family::queue;
  static constexpr Refresh refresh = Refresh::never;
  std::uint32_t start = 4;  // positions below are never victims, whatever the protection axis says
  static constexpr auto params = std::tuple{Param{"start", &Streaming::start, "tokens", "initial positions that are never victims", 0, 1e6}};
};

}  // namespace moekv::evict
