// A graph of each piece hides the cost of enqueueing; events lie around its launch.
#include "gpu_timing.hpp"

#include <algorithm>
#include <utility>

#include "cuda_check.hpp"

namespace moekv::bench {
namespace {

using kernels::check;

/// A captured piece.
class Graph {
 public:
  Graph(cudaStream_t stream, const std::function<void()>& enqueue) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    enqueue();
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(stream, &graph));
    const cudaError_t code = cudaGraphInstantiate(&graph_, graph, 0);
    cudaGraphDestroy(graph);
    check(code);
  }
  ~Graph() {
    if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
  }
  Graph(Graph&& other) noexcept : graph_(std::exchange(other.graph_, nullptr)) {}
  Graph& operator=(Graph&&) = delete;
  void launch(cudaStream_t stream) const { check(cudaGraphLaunch(graph_, stream)); }

 private:
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace

double Times::quantile(double q) const {
  std::vector<double> sorted = seconds;
  std::sort(sorted.begin(), sorted.end());
  return sorted.empty() ? 0.0 : sorted[static_cast<std::size_t>(q * static_cast<double>(sorted.size() - 1) + 0.5)];
}

std::vector<Times> time_pieces(cudaStream_t stream, const std::vector<Piece>& pieces, int rounds, const std::function<void()>& flush) {
  constexpr int warm_up = 2;
  for (const Piece& piece : pieces) piece.enqueue();  // modules are loaded and attributes set outside of captures
  check(cudaStreamSynchronize(stream));
  std::vector<Graph> graphs;
  for (const Piece& piece : pieces) graphs.emplace_back(stream, piece.enqueue);
  cudaEvent_t start = nullptr, end = nullptr;
  check(cudaEventCreate(&start));
  check(cudaEventCreate(&end));
  std::vector<Times> times(pieces.size());
  for (int round = 0; round < rounds + warm_up; ++round) {
    for (std::size_t k = 0; k < pieces.size(); ++k) {
      const std::size_t i = (k + static_cast<std::size_t>(round)) % pieces.size();  // the order rotates
      flush();
      check(cudaEventRecord(start, stream));
      graphs[i].launch(stream);
      check(cudaEventRecord(end, stream));
      check(cudaEventSynchronize(end));
      float milliseconds = 0;
      check(cudaEventElapsedTime(&milliseconds, start, end));
      if (round >= warm_up) times[i].seconds.push_back(static_cast<double>(milliseconds) * 1e-3);
    }
  }
  cudaEventDestroy(start);
  cudaEventDestroy(end);
  return times;
}

}  // namespace moekv::bench
