// The eviction rules. One line here makes a rule known to YAML, help, host loops, HDF5 attributes and the every-rule tests.
#pragma once

#include <variant>

#include "rules/evict/chunk_retain.hpp"
#include "rules/evict/clock.hpp"
#include "rules/evict/expected_attention.hpp"
#include "rules/evict/fifo.hpp"
#include "rules/evict/flexgen.hpp"
#include "rules/evict/frequency.hpp"
#include "rules/evict/full.hpp"
#include "rules/evict/h2o.hpp"
#include "rules/evict/key_geometry.hpp"
#include "rules/evict/lru.hpp"
#include "rules/evict/observation.hpp"
#include "rules/evict/payload.hpp"
#include "rules/evict/quest_literal.hpp"
#include "rules/evict/random.hpp"
#include "rules/evict/segmented.hpp"
#include "rules/evict/streaming.hpp"
#include "rules/evict/threshold.hpp"

namespace moekv {

using EvictRule = std::variant<                                                                                          //
    evict::Full, evict::Random, evict::Fifo, evict::Streaming,                                                           // no history
    evict::H2oSum, evict::H2oMeanSeen, evict::H2oDecay, evict::H2oSquares, evict::Tova, evict::SnapKv, evict::ChunkRetain,  // attention mass
    evict::Lru, evict::Mru, evict::Clock, evict::Sieve, evict::Slru, evict::TwoQueue, evict::S3Fifo, evict::Arc,         // queues of accesses
    evict::Lfu, evict::Lrfu, evict::LruPlusRaw, evict::LruPlusNorm, evict::LeastStaleCyclic, evict::LeastStaleInterval,  // counts of accesses
    evict::Knorm, evict::PagedEviction,                                                                                  // the entry itself
    evict::KeyDiff, evict::LagKv, evict::Cur, evict::ExpectedAttention, evict::RKv, evict::Cake, evict::QuestEvict,      // the entries of a group
    evict::ThresholdAdaptive,                                                                                            // a threshold
    evict::FlexgenStatic,                                                                                                // a plan
    evict::PikvH2o, evict::PikvIndicator, evict::PikvQuestMlp, evict::PikvQuestLegacy, evict::PikvDuoLayersum,           // the paper read literally
    evict::PikvFlexgenInv>;

namespace evict {

/// What a rule declares of itself (rule.hpp says what each means), for code that knows it at run time only.
struct Traits {
  Family family;
  Unit default_unit;
  bool needs_mass, needs_access, needs_payload, needs_error, needs_return, needs_cost;
  bool loads_weights, places, chooses_once, sums_layers, follows_access, scores_groups, reads_store, has_tokens, adapts;
};

}  // namespace evict

[[nodiscard]] const evict::Traits& traits_of(const EvictRule& rule);
/// The rows of a group that a rule scores it by; none for other rules.
[[nodiscard]] evict::GroupReads reads_of(const EvictRule& rule);

}  // namespace moekv
