// lru: the unit whose last access is longest ago goes first; what an access is is `eviction.access`.
#pragma once

#include <tuple>

#include "rules/evict/rule.hpp"

namespace moekv::evict {

struct Lru {
  static constexpr std::string_view name = "lru";
  static constexpr std::string_view doc = "least recently accessed unit goes; needs a sparse access definition to differ from fifo";
  static constexpr Family family = Family::queue;
  static constexpr Refresh refresh = Refresh::on_access;
  static constexpr auto params = std::tuple{};
};

}  // namespace moekv::evict
