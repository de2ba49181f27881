// Times pieces of GPU work as CUDA graphs between events, in interleaved rounds, so that what disturbs one disturbs its neighbours too.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <string>
#include <vector>

namespace moekv::bench {

/// One piece of work, captured once and launched every round.
struct Piece {
  std::string name;
  double bytes = 0;   // that it must move
  std::function<void()> enqueue;  // on the stream
};
struct Times {
  std::vector<double> seconds;  // per round
  [[nodiscard]] double quantile(double q) const;
};

/// Every piece once a round, `rounds` rounds after two that do not count. Before each, `flush` runs, which is not timed.
[[nodiscard]] std::vector<Times> time_pieces(cudaStream_t stream, const std::vector<Piece>& pieces, int rounds, const std::function<void()>& flush);

}  // namespace moekv::bench
