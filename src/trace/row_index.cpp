// Builds the row index of a step-ordered trace in one pass.
#include "trace/row_index.hpp"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <vector>

#include "core/error.hpp"

namespace moekv::native {
namespace {

/// A zeroed mapping; above the limit the pages belong to an unlinked temporary file, so the kernel may write them out.
void* map_bytes(std::size_t n_bytes) {
  int fd = -1;
  if (n_bytes > row_index_memory_bytes) {
    std::string pattern = (std::filesystem::temp_directory_path() / "moekv_index_XXXXXX").string();
    fd = ::mkstemp(pattern.data());
    if (fd < 0 || ::unlink(pattern.c_str()) != 0 || ::ftruncate(fd, static_cast<off_t>(n_bytes)) != 0) {
      throw SystemError(fmt::format("temporary index of {} bytes ({}): {}", n_bytes, pattern, std::strerror(errno)));
    }
  }
  void* at = ::mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE, fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, fd, 0);
  if (fd >= 0) ::close(fd);
  if (at == MAP_FAILED) throw SystemError(fmt::format("mmap of {} bytes for the row index: {}", n_bytes, std::strerror(errno)));
  return at;
}

}  // namespace

RowIndex::RowIndex(const NativeFile& trace) : n_bytes_(trace.n_tokens * sizeof(std::uint64_t)) {
  RowReader requests = trace.rows("tokens/request");
  RowReader positions = trace.rows("tokens/position");
  rows_ = static_cast<std::uint64_t*>(map_bytes(n_bytes_));
  std::vector<std::uint32_t> next(trace.requests.size(), 0);
  std::vector<std::uint32_t> request;
  std::vector<std::uint32_t> position;
  const std::uint64_t step = std::max(requests.block_rows(), positions.block_rows());
  for (std::uint64_t begin = 0; begin < trace.n_tokens; begin += step) {
    const std::uint64_t end = std::min(begin + step, trace.n_tokens);
    request.resize(end - begin);
    position.resize(end - begin);
    requests.read(begin, end, request.data());
    positions.read(begin, end, position.data());
    for (std::uint64_t i = 0; i < end - begin; ++i) {
      const std::uint32_t r = request[i];
      const bool known = r < next.size();
      if (!known || position[i] != next[r] || next[r] == trace.requests[r].total_tokens()) {
        ::munmap(rows_, n_bytes_);
        throw UserError(trace.info.path + (known ? ":/tokens/position" : ":/tokens/request"),
                        known ? fmt::format("row {}: position {} of request {} where {} is next", begin + i, position[i], r, next[r])
                              : fmt::format("row {}: request {} of {}", begin + i, r, next.size()),
                        "a step-ordered trace lists each request's positions 0, 1, 2.. in order; sort it by request otherwise");
      }
      rows_[trace.token_offset[r] + next[r]++] = begin + i;
    }
  }
}

RowIndex::~RowIndex() { ::munmap(rows_, n_bytes_); }

}  // namespace moekv::native
