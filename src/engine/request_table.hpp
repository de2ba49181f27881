// RequestTable: the facts of requests that owners and homes need, kept alike on every process by the batches.
#pragma once

#include <cstdint>
#include <vector>

#include "core/id.hpp"
#include "engine/step_batch.hpp"

namespace moekv {

class StateStream;

/// Indexed by request; sized to the trace. `length` counts tokens stored so far, the current step included once begun.
class RequestTable {
 public:
  struct Row {
    Rank home;
    std::uint32_t total_tokens = 0, prompt_tokens = 0;
    std::uint32_t length = 0;
    std::uint32_t step_begin = 0;     // first position of the current or last step
    std::uint32_t query_begin = 0;    // of its positions [query_begin, length) attend
    std::uint32_t observe_begin = 0;  // and eviction rules look at [observe_begin, length)
    std::uint64_t step = ~0ULL;       // last step it took part in
  };
  explicit RequestTable(std::uint32_t n_requests) : rows_(n_requests) {}

  void begin_step(const StepBatch& batch) {
    for (const BatchItem& item : batch.items) {
      rows_[item.request.value] = {item.home,  item.total_tokens, item.prompt_tokens, item.end,
                                   item.begin, item.query_begin,  item.observe_begin, batch.step};
    }
  }
  /// Tokens stored of every request.
  [[nodiscard]] std::vector<std::uint32_t> lengths() const {
    std::vector<std::uint32_t> out;
    for (const Row& row : rows_) out.push_back(row.length);
    return out;
  }
  void transfer(StateStream& stream);
  [[nodiscard]] const Row& operator[](RequestId r) const { return rows_[r.value]; }

 private:
  std::vector<Row> rows_;
};

}  // namespace moekv
