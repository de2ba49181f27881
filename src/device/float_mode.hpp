// FlushDenormals: treats subnormal numbers as 0 in its scope, because one of them costs tens of ordinary operations.
#pragma once

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace moekv {

/// Sets flush-to-zero and denormals-are-zero of the calling thread; restores what was set before. Nothing where the machine has no such mode.
class FlushDenormals {
 public:
#if defined(__SSE2__)
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040U); }
  ~FlushDenormals() { _mm_setcsr(before_); }
#else
  FlushDenormals() = default;
#endif
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
#if defined(__SSE2__)
  unsigned before_;
#endif
};

}  // namespace moekv
