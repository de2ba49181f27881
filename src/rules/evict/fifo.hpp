// fifo: the unit stored first goes first. At shard scope this is the paper's circular buffer of capacity S.
#pragma once

#include <tuple>

#include "rules/evict/rule.hpp"

namespace moekv::evict {

struct Fifo {
  static constexpr std::string_view name = "fifo";
  static constexpr std::string_view doc = "oldest unit goes; scope shard = the paper's circular buffer";
  static constexpr Family family = Family::queue;
  static constexpr Refresh refresh = Refresh::never;
  static constexpr auto params = std::tuple{};
};

}  // namespace moekv::evict
