// Router: applies the run's routing rule to the home tokens of a process and derives the key by which each layer stores and reads.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/counters.hpp"
#include "engine/geometry.hpp"
#include "engine/step_batch.hpp"
#include "trace/source.hpp"

namespace moekv {

class Router {
 public:
  Router(const Geometry& geometry, const TraceInfo& trace, Counters& counters);

  /// Phase read: rows of this process's tokens, grouped as `items` (its own items in token order).
  void read(const StepBatch& batch, std::span<const BatchItem> items, TraceSource& trace);
  /// Phase route: makes the choices of the rows that `layer` needs (its own row, and its key's).
  void route(const ReplayLayer& layer);
  /// The key of every token at `layer`, [tokens][top_k]; empty for a layer without experts.
  void keys(const ReplayLayer& layer, std::vector<std::uint16_t>& out) const;
  /// Choice of routing row `row`, [tokens][top_k].
  [[nodiscard]] std::span<const std::uint16_t> choice(int row) const { return choices_[row].ids; }
  /// Remembers what the next step needs of this one.
  void end_step();

 private:
  struct Choices {
    bool made = false;
    std::vector<std::uint16_t> ids;
    std::vector<float> weights;
  };
  void route_row(int row);
  /// Counts what the rule changed against the recorded choice: the price of another router.
  void compare(const route::TokenView& token, const std::uint16_t* ids);
  void hash_key(RequestId request, int row, std::uint16_t* out) const;

  const Geometry* geometry_;
  const TraceInfo* trace_;
  Counters* counters_;
  route::Geometry rule_geometry_;
  bool recorded_, wants_logits_;
  std::uint32_t first_row_ = 0, end_row_ = 0;    // rows that some replayed layer needs
  std::uint64_t step_ = 0;
  std::vector<BatchItem> items_;
  std::vector<RoutingRows> rows_;                // per item
  std::vector<Choices> choices_;                 // per routing row
  std::unordered_map<std::uint32_t, std::vector<std::uint16_t>> last_;  // request -> last token's choices [rows][top_k]
};

}  // namespace moekv
