// Address space is mapped without access and opened in 2 MiB steps; huge pages keep random page reads out of the TLB's way.
#include "device/page_pool.hpp"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.hpp"
#include "core/heap.hpp"
#include "core/state_stream.hpp"

namespace moekv {
namespace {

constexpr std::uint64_t huge_page_bytes = std::uint64_t{2} << 20;
constexpr std::uint64_t check_step_bytes = std::uint64_t{64} << 20;  // how often growing asks the system what is left

std::uint64_t round_up(std::uint64_t bytes, std::uint64_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

PagePool::PagePool(const BlockFormat& format, std::uint32_t max_blocks)
    : tables_(std::make_unique<TableStore>(format.shared_bytes())),
      view_{nullptr, format.block_bytes(), format.head_bytes(), format, tables_.get()},
      max_blocks_(max_blocks) {
  std::uint64_t bytes = 0;
  const bool too_large = __builtin_mul_overflow(view_.block_bytes, std::uint64_t{max_blocks}, &bytes) || bytes > (std::uint64_t{1} << 46);
  reserved_ = too_large ? 0 : round_up(bytes, huge_page_bytes) + huge_page_bytes;  // one more to align the first block
  void* mapped = too_large ? MAP_FAILED : mmap(nullptr, reserved_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) {
    throw PointFailure(fmt::format("cannot reserve address space for a pool of {} blocks of {} bytes: {}", max_blocks, view_.block_bytes,
                                   too_large ? "larger than an address space" : std::strerror(errno)));
  }
  const auto address = reinterpret_cast<std::uintptr_t>(mapped);
  const std::uint64_t skip = round_up(address, huge_page_bytes) - address;
  if (skip > 0) munmap(mapped, skip);
  if (skip < huge_page_bytes) munmap(static_cast<std::byte*>(mapped) + reserved_ - (huge_page_bytes - skip), huge_page_bytes - skip);
  reserved_ -= huge_page_bytes;
  view_.base = static_cast<std::byte*>(mapped) + skip;
}

PagePool::~PagePool() {
  if (view_.base != nullptr && reserved_ > 0) munmap(view_.base, reserved_);
}

PagePool::PagePool(PagePool&& other) noexcept
    : tables_(std::move(other.tables_)),
      view_(other.view_),
      max_blocks_(other.max_blocks_),
      used_blocks_(other.used_blocks_),
      reserved_(other.reserved_),
      committed_(other.committed_) {
  other.view_.base = nullptr;
}

void PagePool::grow(std::uint32_t index) {
  MOEKV_EXPECT(index < max_blocks_);
  const std::uint64_t wanted = round_up((std::uint64_t{index} + 1) * view_.block_bytes, huge_page_bytes);
  if (wanted > committed_) {
    const std::uint64_t more = wanted - committed_;
    const bool ask = wanted / check_step_bytes != committed_ / check_step_bytes;
    const bool exhausted = ask && available_memory() < more + check_step_bytes;
    if (exhausted || mprotect(view_.base + committed_, more, PROT_READ | PROT_WRITE) != 0) {
      throw PointFailure(fmt::format("out of host memory: a pool of {} bytes needs {} more, {} are available", committed_, more, available_memory()));
    }
    madvise(view_.base, wanted, MADV_HUGEPAGE);  // advice only: small pages are correct too
    committed_ = wanted;
  }
  used_blocks_ = index + 1;
}

void PagePool::transfer(StateStream& stream) {
  std::uint32_t n = used_blocks_;
  stream(n);
  if (n > 0) {
    use(n - 1);
    stream.bytes(view_.base, n * view_.block_bytes);
  }
  stream(*tables_);
}

}  // namespace moekv
