// The arithmetic limit of this machine: fused multiply-adds per second that its widest vectors do from registers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace moekv::bench {

/// Does `n` rounds of independent multiply-adds on each of `n_threads` threads; returns how many single-precision ones were done.
[[nodiscard]] std::size_t do_fmas(std::uint32_t n, int n_threads);

}  // namespace moekv::bench
