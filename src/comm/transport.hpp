// Transport: moves byte lists between processes. One process hosts a contiguous block of logical ranks; what the bytes mean is the engine's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace moekv {

/// Collective calls: every process makes the same calls in the same order. Not thread-safe.
class Transport {
 public:
  virtual ~Transport() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;  // "local", "mpi", "nccl", "ipc"
  [[nodiscard]] virtual int n_processes() const = 0;
  [[nodiscard]] virtual int process() const = 0;
  [[nodiscard]] virtual std::string host_name() const = 0;

  /// The buffer to fill with bytes for process `p` before `exchange`. Its capacity is kept between exchanges.
  [[nodiscard]] virtual std::vector<std::byte>& outbox(int p) = 0;
  /// Collective. Delivers all outboxes; received(p) then holds what process p put in its outbox for this one, until the next exchange.
  /// Outboxes are empty afterwards. Bytes for the own process are handed over without MPI.
  virtual void exchange() = 0;
  [[nodiscard]] virtual std::span<const std::byte> received(int p) const = 0;

  /// Collective, in place, element-wise.
  virtual void allreduce_sum(std::span<std::int64_t> values) = 0;
  virtual void allreduce_max(std::span<std::int64_t> values) = 0;
  /// Collective. Concatenation of every process's bytes in process order on process 0; empty elsewhere.
  [[nodiscard]] virtual std::vector<std::vector<std::byte>> gather(std::span<const std::byte> mine) = 0;
  /// Collective. Process 0's bytes on every process.
  virtual void broadcast(std::vector<std::byte>& bytes) = 0;
  virtual void barrier() = 0;
  /// Bytes held by outboxes and receive buffers.
  [[nodiscard]] virtual std::int64_t buffer_bytes() const = 0;
};

/// Collective. Rows of all processes in process order, on process 0; empty elsewhere.
template <class Row>
[[nodiscard]] std::vector<Row> gather_rows(Transport& transport, std::span<const Row> mine) {
  static_assert(std::is_trivially_copyable_v<Row>);
  std::vector<Row> all;
  for (const auto& part : transport.gather(std::as_bytes(mine))) {
    const std::size_t n = all.size();
    all.resize(n + part.size() / sizeof(Row));
    if (!part.empty()) std::memcpy(static_cast<void*>(all.data() + n), part.data(), part.size());
  }
  return all;
}
template <class Row>
[[nodiscard]] std::vector<Row> gather_rows(Transport& transport, const std::vector<Row>& mine) {
  return gather_rows(transport, std::span<const Row>(mine));
}

/// One process that hosts every logical rank.
[[nodiscard]] std::unique_ptr<Transport> make_local_transport();
/// MPI_COMM_WORLD; needs a live MpiSession and must end before it. Collective, the destructor too. Messages above `piece_bytes` travel in pieces
/// (MPI counts are ints), with the same value on every process.
[[nodiscard]] std::unique_ptr<Transport> make_mpi_transport(std::size_t piece_bytes = std::size_t{1} << 30);
/// What becomes of bytes that a process sends to itself. `through_device` lets one process try what several need.
enum class OwnBytes : std::uint8_t { handed_over, through_device };
/// Exchanges go from GPU to GPU by NCCL, everything else through `job`, which must live as long. Collective: where the build, libnccl or a GPU is
/// missing, every process throws DeviceMissing; where two processes share a GPU, UserError.
[[nodiscard]] std::unique_ptr<Transport> make_nccl_transport(Transport& job, OwnBytes own = OwnBytes::handed_over);
/// Exchanges go from GPU to GPU of one node through memory that the processes map into each other (CUDA IPC), everything else through `job`, which
/// must live as long. Collective, the destructor too. Where the build or a GPU is missing every process throws DeviceMissing; where processes run on
/// several nodes or cannot map each other's memory, UserError.
[[nodiscard]] std::unique_ptr<Transport> make_ipc_transport(Transport& job);

}  // namespace moekv
