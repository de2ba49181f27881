// StepBatch: the tokens of one step, the same on every process. Requests ascend; each contributes one contiguous range.
#pragma once

#include <cstdint>
#include <vector>

#include "core/id.hpp"

namespace moekv {

struct BatchItem {
  RequestId request;
  Rank home;
  std::uint32_t begin = 0, end = 0;       // positions processed in this step
  std::uint32_t query_begin = 0;          // positions [query_begin, end) attend; the others are only stored
  std::uint32_t observe_begin = 0;        // attention of [observe_begin, end) is what eviction rules look at
  std::uint32_t prompt_tokens = 0;
  std::uint32_t total_tokens = 0;
  [[nodiscard]] bool prefill() const { return begin < prompt_tokens; }
  [[nodiscard]] bool ends_prompt() const { return prefill() && end == prompt_tokens; }
  [[nodiscard]] bool finishes() const { return end == total_tokens; }
};

struct StepBatch {
  std::uint64_t step = 0;
  std::vector<BatchItem> items;
};

/// One token of a home rank at some layer. Tokens of a process are ordered by (home, request, position).
struct HomeToken {
  RequestId request;
  std::uint32_t position = 0;
  Rank home;
  bool query = false;
  bool probe = false;  // its read set and output are compared with exact attention
  bool observed = true;  // eviction rules look at its attention
};

}  // namespace moekv
