// ChoiceChecks: what validation looks for in the experts and weights of each token and layer.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "trace/native_file.hpp"
#include "trace/tally.hpp"
#include "trace/validate.hpp"

namespace moekv::native {

class ChoiceChecks {
 public:
  explicit ChoiceChecks(const NativeFile& trace);
  /// One token: ids [layers][top_k] with ExpertId::invalid for absent ones; weights the same shape as binary16 bits, empty at level ids.
  void add(std::uint64_t row, std::span<const std::uint16_t> ids, std::span<const std::uint16_t> weights);
  void report(TraceReport& report) const;

 private:
  /// What is carried from token to token for one layer.
  struct Layer {
    std::uint64_t chain = 0;                    // hash of all choices so far, in slot order
    std::uint64_t set = 0;                      // hash of the last choice as a set
    std::uint64_t run_begin = 0, run_rows = 0;  // rows that share it
    std::uint64_t longest_begin = 0, longest_rows = 0;
    std::uint64_t zero_rows = 0, absent_ids = 0;
    std::vector<std::uint64_t> chosen;  // per expert
  };

  void check_ids(std::uint64_t row, std::size_t l, std::span<const std::uint16_t> ids);
  void check_weights(std::uint64_t row, std::size_t l, std::span<const std::uint16_t> ids, std::span<const std::uint16_t> weights);
  void follow(std::uint64_t row, Layer& layer, std::span<const std::uint16_t> ids) const;
  [[nodiscard]] bool dense(const Layer& layer) const { return n_rows_ > 0 && layer.zero_rows == n_rows_; }
  void warn_of_runs(TraceReport& report) const;
  void warn_of_equal_layers(TraceReport& report) const;
  void warn_of_dense_and_dead(TraceReport& report) const;

  const NativeFile& trace_;
  std::vector<Layer> layers_;
  std::uint64_t n_rows_ = 0;
  std::vector<float> values_;  // weights of one choice
  Tally range_, repeated_, finite_, sum_, partly_zero_;
};

}  // namespace moekv::native
