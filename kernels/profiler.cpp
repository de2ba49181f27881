// Ranges by NVTX and captures by the CUDA runtime.
#include <cuda_profiler_api.h>
#include <nvtx3/nvToolsExt.h>

#include "cuda_check.hpp"
#include "device/profile.hpp"

namespace moekv {

void push_range(const char* name) noexcept { nvtxRangePushA(name); }
void pop_range() noexcept { nvtxRangePop(); }
void start_capture() { kernels::check(cudaProfilerStart()); }
void stop_capture() { kernels::check(cudaProfilerStop()); }

}  // namespace moekv
