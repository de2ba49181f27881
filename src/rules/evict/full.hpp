// full: nothing is ever evicted; needing more than fits is overcommit.
#pragma once

#include <tuple>

#include "rules/evict/rule.hpp"

namespace moekv::evict {

struct Full {
  static constexpr std::string_view name = "full";
  static constexpr std::string_view doc = "keep everything";
  static constexpr std::string_view source = "no eviction";
  static constexpr Family family = Family::none;
  static constexpr auto params = std::tuple{};
};

}  // namespace moekv::evict
