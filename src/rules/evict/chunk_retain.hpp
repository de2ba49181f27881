// chunk_retain: pages as ChunkKV's chunks, kept or dropped as a whole when the prompt ends (compression.md section 2.2).
#pragma once

#include <string_view>
#include <tuple>

#include "rules/evict/h2o.hpp"

namespace moekv::evict {

/// Liu et al. 2025. A chunk is a page, its score the mean (`eviction.page_reducer`) of its tokens' attention, of all heads of the head group. Use it
/// with `prefill.queries: last:32` and `eviction.trigger: prefill_end`.
struct ChunkRetain : SumsMass {
  static constexpr std::string_view name = "chunk_retain";
  static constexpr std::string_view doc = "ChunkKV: pages with the least mean attention of the prompt's last queries go when the prompt ends";
  static constexpr std::string_view source = "ChunkKV, arXiv 2502.00299";
  static constexpr bool scores_pages = true;
  static constexpr bool chooses_once = true;
  static constexpr auto params = std::tuple{};
};

}  // namespace moekv::evict
