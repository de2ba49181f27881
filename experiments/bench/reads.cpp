// Baselines written so that they do nothing but move bytes; the sums keep the compiler from dropping the loads.
#include "reads.hpp"

#include <omp.h>
#include <sys/mman.h>

#include <cstring>
#include <new>

namespace moekv::bench {

Arena::Arena(std::size_t bytes) : bytes_(bytes) {
  void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<std::byte*>(mapped);
  madvise(mapped, bytes, MADV_HUGEPAGE);
  std::memset(data_, 1, bytes);
}
Arena::~Arena() { munmap(data_, bytes_); }

#if defined(__x86_64__)
[[gnu::target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")]]
#endif
std::uint64_t
sum_words(const std::byte* data, std::size_t bytes) {
  const auto* words = reinterpret_cast<const std::uint64_t*>(data);
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < bytes / 8; ++i) sum += words[i];
  return sum;
}

std::uint64_t read_pieces(const std::byte* data, const std::vector<std::size_t>& offsets, std::size_t first, std::size_t n, std::size_t bytes,
                          int n_threads) {
  std::uint64_t sum = 0;
#pragma omp parallel for schedule(static) num_threads(n_threads) reduction(+ : sum)
  for (std::size_t i = first; i < first + n; ++i) sum += sum_words(data + offsets[i], bytes);
  return sum;
}

std::uint64_t read_streams(const std::byte* data, std::size_t bytes, int n_threads) {
  constexpr std::size_t streams = 8;
  constexpr std::size_t piece = 256;
  std::uint64_t sum = 0;
#pragma omp parallel for schedule(static) num_threads(n_threads) reduction(+ : sum)
  for (int t = 0; t < n_threads; ++t) {
    const std::size_t part = bytes / static_cast<std::size_t>(n_threads);
    const std::size_t stream = part / streams / piece * piece;
    const std::byte* at = data + static_cast<std::size_t>(t) * part;
    for (std::size_t i = 0; i < stream; i += piece) {
      for (std::size_t s = 0; s < streams; ++s) sum += sum_words(at + s * stream + i, piece);
    }
  }
  return sum;
}

void copy(std::byte* to, const std::byte* from, std::size_t bytes, int n_threads) {
  const std::size_t part = bytes / static_cast<std::size_t>(n_threads);
#pragma omp parallel for schedule(static) num_threads(n_threads)
  for (int t = 0; t < n_threads; ++t) std::memcpy(to + static_cast<std::size_t>(t) * part, from + static_cast<std::size_t>(t) * part, part);
}

}  // namespace moekv::bench
