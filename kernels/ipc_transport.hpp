// IpcTransport: a Transport among processes of one node that map each other's device memory and copy from it (CUDA IPC).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "job_transport.hpp"
#include "staging.hpp"

namespace moekv::kernels {

/// Device memory that other processes of the node can map.
class SharedMemory {
 public:
  using Handle = std::array<std::byte, 64>;
  virtual ~SharedMemory() = default;
  virtual std::byte* allocate(std::uint64_t bytes) = 0;
  /// Nobody else maps it any more.
  virtual void release(std::byte* memory) noexcept = 0;
  /// What another process opens. `memory` is what `allocate` returned.
  virtual Handle handle(std::byte* memory) = 0;
  /// Maps memory of another process, for copies in the order of the device's work. Throws SystemError.
  virtual std::byte* open(const Handle& handle) = 0;
  virtual void close(std::byte* memory) noexcept = 0;
};

/// A process packs its messages into an arena of its own and tells every peer where theirs lies; peers copy it from there to their device. Two arenas
/// take turns: when all processes have told where an exchange lies, all have read the one before. The others map an arena once, and again where it
/// has grown.
class IpcTransport final : public JobTransport {
 public:
  /// `job` tells where messages lie. Collective, the destructor too.
  IpcTransport(Transport& job, std::unique_ptr<Device> device, std::unique_ptr<SharedMemory> memory);
  ~IpcTransport() override;

  [[nodiscard]] std::string_view name() const override { return "ipc"; }
  void exchange() override;
  [[nodiscard]] std::int64_t buffer_bytes() const override;

 private:
  struct Arena {
    std::byte* memory = nullptr;
    std::uint64_t bytes = 0, generation = 0;
    SharedMemory::Handle handle{};
  };
  /// Where a message lies, in the arena of this exchange.
  struct Notice {
    std::uint64_t offset = 0, bytes = 0, generation = 0;
    SharedMemory::Handle handle{};
  };
  struct Mapping {
    std::byte* memory = nullptr;
    std::uint64_t generation = 0;
  };

  void grow(Arena& arena, std::uint64_t bytes);
  void pack(Arena& arena);
  /// Fills notices_.
  void announce(const Arena& arena);
  std::byte* map(Mapping& mapping, const Notice& notice);
  void pull(std::vector<Mapping>& mappings);

  std::unique_ptr<Device> device_;
  std::unique_ptr<SharedMemory> memory_;
  std::array<Arena, 2> arenas_;
  std::array<std::vector<Mapping>, 2> mappings_;  // [arena][process]
  std::vector<std::byte*> retired_;               // arenas that peers unmap when they are told of the successors
  std::vector<Notice> notices_;                   // [process]
  GrowingMemory send_, receive_;
  std::uint64_t n_exchanges_ = 0;
  int exceptions_at_start_;
};

/// Collective. UserError on every process with the first reason that one has against CUDA IPC; empty = none.
void refuse_ipc(Transport& job, const std::string& reason);
/// Collective. UserError on every process where they run on several nodes.
void require_one_node(Transport& job);
/// Collective. The transport, once messages went through both of its arenas; UserError on every process where they did not.
[[nodiscard]] std::unique_ptr<Transport> tried(Transport& job, std::unique_ptr<IpcTransport> transport);

}  // namespace moekv::kernels
