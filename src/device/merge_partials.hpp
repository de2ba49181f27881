// Partial results of shards and ranks become attention outputs here, in host memory, where they arrive from other processes.
#pragma once

#include <cstdint>
#include <span>

#include "rules/merge.hpp"

namespace moekv {

/// One row of a partial result: state and sum of exp(logit - m) v, [d_v], not divided by l.
struct Partial {
  SoftmaxState state;
  const float* o;
};

/// Row i of the output is the merge of parts[offsets[i] .. offsets[i+1]) in that order. Empty parts are skipped; `sink` (may be null) adds a logit
/// per output row to the denominator only.
struct MergeBatch {
  std::span<const std::uint32_t> offsets;  // [rows + 1]
  std::span<const Partial> parts;
  std::uint32_t d_v;
  const float* sink;  // [rows]
  float* lse;         // [rows] log-sum-exp of the logits; -inf where nothing was read
  float* o;           // [rows][d_v] attention outputs; 0 where nothing was read
};

/// On up to `n_threads` threads (0: OpenMP's default); bit-identical for any number of them.
void merge_partials(const MergeBatch& batch, int n_threads);

}  // namespace moekv
