// Marks functions that run on host and device; empty for a host compiler, so no other header mentions CUDA.
#pragma once

#if defined(__CUDACC__)
#define MOEKV_HD __host__ __device__ inline
#else
#define MOEKV_HD inline
#endif
