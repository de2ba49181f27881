// EmulatedSharing: memory of an EmulatedDevice that other processes map, as POSIX shared memory; it counts who maps what.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>

#include "core/error.hpp"
#include "ipc_transport.hpp"
#include "support/emulated_device.hpp"

namespace moekv::test {

class EmulatedSharing final : public kernels::SharedMemory {
 public:
  /// What a test looks at afterwards.
  struct Record {
    int made = 0, opened = 0, closed = 0, released = 0;
    int released_while_mapped = 0;
    bool refuses = false;  // to open
  };
  EmulatedSharing(EmulatedDevice& device, Record& record) : device_(device), record_(record) {}

  std::byte* allocate(std::uint64_t bytes) override {
    ++record_.made;
    const std::string name = "/moekv_" + std::to_string(getpid()) + "_" + std::to_string(count()++);
    const int file = shm_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
    if (file < 0 || ftruncate(file, static_cast<off_t>(bytes + head)) != 0) throw SystemError("no shared memory");
    Segment segment = map(file, name);
    segment.owner = true;
    std::memset(segment.base + head, 0xFF, bytes);
    return add(segment, bytes);
  }
  void release(std::byte* memory) noexcept override {
    ++record_.released;
    if (mappings(segments_.at(memory)).load() != 0) ++record_.released_while_mapped;
    drop(memory);
  }
  Handle handle(std::byte* memory) override {
    Handle out{};
    const std::string& name = segments_.at(memory).name;
    std::memcpy(out.data(), name.data(), name.size());
    return out;
  }
  std::byte* open(const Handle& handle) override {
    if (record_.refuses) throw SystemError("refused");
    ++record_.opened;
    const std::string name = reinterpret_cast<const char*>(handle.data());
    const int file = shm_open(name.c_str(), O_RDWR, 0);
    if (file < 0) throw SystemError("no such memory: " + name);
    const Segment segment = map(file, name);
    mappings(segment).fetch_add(1);
    return add(segment, segment.size - head);
  }
  void close(std::byte* memory) noexcept override {
    ++record_.closed;
    mappings(segments_.at(memory)).fetch_sub(1);
    drop(memory);
  }

 private:
  struct Segment {
    std::byte* base = nullptr;
    std::uint64_t size = 0;
    std::string name;
    bool owner = false;
  };
  static constexpr std::uint64_t head = 4096;  // holds the number of processes that map it, beside the owner

  static int& count() {
    static int n = 0;
    return n;
  }
  static std::atomic<int>& mappings(const Segment& segment) { return *reinterpret_cast<std::atomic<int>*>(segment.base); }
  static Segment map(int file, const std::string& name) {
    struct stat status {};
    fstat(file, &status);
    const auto size = static_cast<std::uint64_t>(status.st_size);
    void* base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    ::close(file);
    if (base == MAP_FAILED) throw SystemError("mmap failed");
    return {static_cast<std::byte*>(base), size, name, false};
  }
  std::byte* add(const Segment& segment, std::uint64_t bytes) {
    std::byte* memory = segment.base + head;
    device_.adopt(memory, bytes);
    segments_[memory] = segment;
    return memory;
  }
  void drop(std::byte* memory) {
    device_.forget(memory);
    const Segment segment = segments_.at(memory);
    segments_.erase(memory);
    munmap(segment.base, segment.size);
    if (segment.owner) shm_unlink(segment.name.c_str());
  }

  EmulatedDevice& device_;
  Record& record_;
  std::map<std::byte*, Segment> segments_;
};

}  // namespace moekv::test
