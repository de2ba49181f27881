// glibc maps blocks above a threshold one by one, cuts the heap's end off where it is free, and extends it by little at a time: all three are set,
// and so stay as they are.
#include "core/heap.hpp"

#include <cstdio>
#include <cstdlib>
#include <limits>
#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace moekv {

void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
  mallopt(M_TOP_PAD, 16 << 20);
#endif
}

std::uint64_t available_memory() {
  std::uint64_t kib = std::numeric_limits<std::uint64_t>::max() / 1024;
  if (std::FILE* file = std::fopen("/proc/meminfo", "r")) {
    char line[128];
    while (std::fgets(line, sizeof line, file) != nullptr) {
      unsigned long value = 0;
      if (std::sscanf(line, "MemAvailable: %lu kB", &value) == 1) kib = value;
    }
    std::fclose(file);
  }
  return kib * 1024;
}

}  // namespace moekv
