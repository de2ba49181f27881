// Memory of the process and of the system. What the heap does with memory that is freed: a process that does much the same again and again need not
// get it anew each time.
#pragma once

#include <cstdint>

namespace moekv {

/// From now on freed blocks of up to 32 MiB, and 256 MiB at the heap's end, stay with the process instead of going back to the system, which clears
/// every page that it gives out; the heap grows by 16 MiB at least. Nothing where the C library is not glibc.
void keep_freed_memory();

/// Bytes that the system could give to processes (MemAvailable of Linux); the largest value where that is not known.
[[nodiscard]] std::uint64_t available_memory();

}  // namespace moekv
