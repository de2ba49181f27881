// SpoolFile over an unlinked temporary file, pread and mmap.
#include "io/spool.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>

#include "core/error.hpp"

namespace moekv {
namespace {

[[noreturn]] void fail(const char* call) {
  throw SystemError(std::string(call) + " on a temporary file: " + std::strerror(errno) + " (TMPDIR names the folder that is used)");
}

void write_all(int descriptor, const std::byte* data, std::size_t n) {
  while (n > 0) {
    const ssize_t done = ::write(descriptor, data, n);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail("write");
    data += done;
    n -= static_cast<std::size_t>(done);
  }
}

}  // namespace

SpoolFile::SpoolFile() {
  const char* folder = std::getenv("TMPDIR");
  std::string name = std::string(folder != nullptr && *folder != '\0' ? folder : "/tmp") + "/moekv-spool-XXXXXX";
  descriptor_ = ::mkostemp(name.data(), O_CLOEXEC);
  if (descriptor_ < 0) fail("mkostemp");
  ::unlink(name.c_str());
}

SpoolFile::~SpoolFile() {
  if (mapped_ != nullptr) ::munmap(mapped_, mapped_bytes_);
  if (descriptor_ >= 0) ::close(descriptor_);
}

void SpoolFile::append(std::span<const std::byte> bytes) {
  size_bytes_ += bytes.size();
  if (pending_ + bytes.size() > sizeof(buffer_)) flush();
  if (bytes.size() > sizeof(buffer_)) {
    write_all(descriptor_, bytes.data(), bytes.size());
    return;
  }
  std::copy(bytes.begin(), bytes.end(), buffer_ + pending_);
  pending_ += bytes.size();
}

void SpoolFile::flush() {
  write_all(descriptor_, buffer_, pending_);
  pending_ = 0;
}

void SpoolFile::read_at(std::uint64_t offset, std::span<std::byte> out) const {
  std::size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::pread(descriptor_, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("pread");
    if (n == 0) throw SystemError("pread on a temporary file: offset beyond its end");
    done += static_cast<std::size_t>(n);
  }
}

std::span<std::byte> SpoolFile::map(std::uint64_t n_bytes) {
  if (mapped_ != nullptr) ::munmap(mapped_, mapped_bytes_);
  mapped_ = nullptr;
  if (n_bytes == 0) return {};
  if (const int error = ::posix_fallocate(descriptor_, 0, static_cast<off_t>(n_bytes)); error != 0) {
    errno = error;  // a full disk is met here, not as a bus error later
    fail("posix_fallocate");
  }
  void* memory = ::mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_, 0);
  if (memory == MAP_FAILED) fail("mmap");
  mapped_ = static_cast<std::byte*>(memory);
  mapped_bytes_ = n_bytes;
  return {mapped_, n_bytes};
}

}  // namespace moekv
