// Router: applies the run's routing rule to the home tokens of a process and derives the key by which each layer stores and reads.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "comm/transport.hpp"
#include "device/backend.hpp"
#include "engine/counters.hpp"
#include "engine/geometry.hpp"
#include "engine/step_batch.hpp"
#include "trace/source.hpp"

namespace moekv {

/// When the rows of a step are known: all before its first layer, or one after the other, each after the attention of its layer.
enum class RowsCome : std::uint8_t { from_trace, by_layer };

class Router {
 public:
  /// Throws UserError where the rule needs what the trace does not have, or cannot choose in this geometry.
  /// `backend` may make the choices of rule topk.
  Router(const Geometry& geometry, const TraceInfo& trace, RowsCome rows, Counters& counters, Transport& transport, Backend& backend);

  /// Phase read: rows of this process's tokens, grouped as `items` (its own items in token order).
  void read(const StepBatch& batch, std::span<const BatchItem> items, TraceSource& trace);
  /// The same for rows that come by layer: `give` hands them over, [tokens][n_experts] logits and the [tokens][top_k] choice of the model's own gate.
  void begin(const StepBatch& batch, std::span<const BatchItem> items);
  void give(int row, std::span<const float> logits, std::span<const std::uint16_t> ids, std::span<const float> weights);
  /// Phase route: makes the choices of the rows that `layer` needs (its own row, and its key's).
  void route(const ReplayLayer& layer);
  /// The key of every token at `layer`, [tokens][top_k]; empty for a layer without experts. Where rows come by layer, the previous token is the
  /// newest one of an earlier step: what the tokens of one chunk choose at a layer is not known when it attends.
  void keys(const ReplayLayer& layer, std::vector<std::uint16_t>& out) const;
  /// Choice of routing row `row`, [tokens][top_k].
  [[nodiscard]] std::span<const std::uint16_t> choice(int row) const { return choices_[row].ids; }
  /// Its weights.
  [[nodiscard]] std::span<const float> weights(int row) const { return choices_[row].weights; }
  /// Remembers what the next step needs of this one. Collective for rules with state: their counts are summed over all processes.
  void end_step();
  /// Between two steps.
  void transfer(StateStream& stream);
  /// State of routing row `row` (null for a rule without any).
  [[nodiscard]] const route::LayerState* state(int row) const { return memory_.empty() ? nullptr : &memory_[row].view; }

 private:
  struct Choices {
    bool made = false;
    std::vector<std::uint16_t> ids;
    std::vector<float> weights;
  };
  /// State of one routing row and the arrays it lives in.
  struct Memory {
    std::vector<float> values;
    route::LayerState view{};  // points into values

    void point(std::size_t n_experts);
  };
  void check_rule() const;
  void make_memory();
  void route_row(int row);
  /// Views of the tokens of a row, in token order.
  void view_tokens(int row);
  void choose(int row, Choices& out);
  void update_memory();
  /// Counts what the rule changed against the recorded choice: the price of another router.
  void compare(const route::TokenView& token, const std::uint16_t* ids);
  /// The weight that the recorded gate would have given an expert it did not choose, by the scores of the two; 0 for one that it chose.
  [[nodiscard]] double recorded_weight(const route::TokenView& token, std::uint16_t expert) const;
  /// What the recorded choice would have loaded experts with at `layer`, and sent to other ranks for storing: the gain of another router.
  void compare_load(const ReplayLayer& layer);
  void hash_key(RequestId request, int row, std::uint16_t* out) const;

  const Geometry* geometry_;
  const TraceInfo* trace_;
  Counters* counters_;
  route::Geometry rule_geometry_;
  Transport* transport_;
  Backend* backend_;
  RowsCome rows_come_;
  bool recorded_, wants_logits_;
  std::uint32_t first_row_ = 0, end_row_ = 0;  // rows that some replayed layer needs
  std::uint64_t step_ = 0;
  std::vector<BatchItem> items_;
  std::vector<RoutingRows> rows_;        // per item
  std::vector<Choices> choices_;         // per routing row
  std::vector<route::TokenView> views_;  // scratch of route_row
  std::vector<float> floats_;            // scratch of rules that choose by group
  std::vector<std::uint32_t> words_;
  std::vector<Memory> memory_;                                          // per routing row; empty for a rule without state
  std::vector<std::int64_t> counts_;                                    // [rows][load: experts, missed: experts, lookups] of the step
  std::unordered_map<std::uint32_t, std::vector<std::uint16_t>> last_;  // request -> last token's choices [rows][top_k]
};

}  // namespace moekv
