// CudaGraph: work captured from a stream, ready to be launched again.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "device.hpp"

namespace moekv::kernels {

class CudaGraph final : public DeviceGraph {
 public:
  explicit CudaGraph(cudaGraphExec_t graph) : graph_(graph) {}
  ~CudaGraph() override { cudaGraphExecDestroy(graph_); }
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;
  void launch(cudaStream_t stream) const;

  static void begin(cudaStream_t stream);
  /// Ends what `begin` began; null where CUDA makes no graph of it.
  [[nodiscard]] static std::unique_ptr<CudaGraph> end(cudaStream_t stream);

 private:
  cudaGraphExec_t graph_;
};

}  // namespace moekv::kernels
