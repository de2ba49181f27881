// The eviction rules. One line here makes a rule known to YAML, help, host loops, HDF5 attributes and the every-rule tests.
#pragma once

#include <variant>

#include "rules/evict/fifo.hpp"
#include "rules/evict/full.hpp"
#include "rules/evict/h2o_sum.hpp"
#include "rules/evict/lru.hpp"
#include "rules/evict/random.hpp"
#include "rules/evict/streaming.hpp"

namespace moekv {

using EvictRule = std::variant<evict::Full, evict::Random, evict::Fifo, evict::Streaming, evict::Lru, evict::H2oSum>;

}  // namespace moekv
