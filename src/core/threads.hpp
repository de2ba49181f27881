// How many threads a parallel region gets.
#pragma once

#include <omp.h>

namespace moekv {

/// `asked` threads (a run's `threads`), or where that is 0 as many as OpenMP would take.
[[nodiscard]] inline int thread_count(int asked) { return asked > 0 ? asked : omp_get_max_threads(); }

}  // namespace moekv
