// Capture on one stream, by this thread alone.
#include "cuda_graph.hpp"

#include "cuda_check.hpp"

namespace moekv::kernels {

void CudaGraph::begin(cudaStream_t stream) { check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal)); }

std::unique_ptr<CudaGraph> CudaGraph::end(cudaStream_t stream) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  cudaError_t code = cudaStreamEndCapture(stream, &graph);
  if (code == cudaSuccess) code = cudaGraphInstantiate(&executable, graph, 0);
  if (graph != nullptr) cudaGraphDestroy(graph);
  if (code == cudaSuccess) return std::make_unique<CudaGraph>(executable);
  cudaGetLastError();  // a refusal does not show again
  return nullptr;
}

void CudaGraph::launch(cudaStream_t stream) const { check(cudaGraphLaunch(graph_, stream)); }

}  // namespace moekv::kernels
