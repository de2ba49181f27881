// TrafficMatrix: what a run sent from rank to rank in one window, for benchmarks of networks that take such a matrix.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/records.hpp"

namespace moekv {

struct TrafficMatrix {
  std::int64_t first_step = 0;  // of the window
  std::size_t n_ranks = 0;
  std::vector<std::int64_t> bytes;  // [source][destination], nothing on the diagonal

  [[nodiscard]] std::int64_t largest() const;
  /// As nccl-tests' alltoallv reads it: a line for each source, shares of the largest entry between commas.
  [[nodiscard]] std::string nccl_tests_csv() const;
};

/// Of the last window with traffic that begins at `step` or before, else of the window with most bytes. Throws UserError, naming `path`, where
/// nothing was sent, no window begins so early, or there are too many ranks for a matrix.
[[nodiscard]] TrafficMatrix traffic_matrix(std::span<const TrafficRecord> traffic, std::optional<std::int64_t> step, const std::string& path);

}  // namespace moekv
