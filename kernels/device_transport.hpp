// DeviceTransport: a Transport whose exchanges go through device memory by a library of point-to-point operations (NCCL), with a watchdog.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "job_transport.hpp"
#include "staging.hpp"

namespace moekv::kernels {

/// Sends and receives of device memory among the processes of a job, in the order of the device's work.
class Peers {
 public:
  virtual ~Peers() = default;
  virtual void start_group() = 0;
  virtual void send(const std::byte* memory, std::uint64_t bytes, int peer) = 0;
  virtual void receive(std::byte* memory, std::uint64_t bytes, int peer) = 0;
  virtual void end_group() = 0;
  /// Throws SystemError where an operation under way has failed.
  virtual void poll() = 0;
  /// Ends what is under way, at once and without the peers.
  virtual void abort() noexcept = 0;
};

class DeviceTransport final : public JobTransport {
 public:
  /// `job` tells how many bytes each exchange carries. One that takes longer than `timeout_s` is aborted.
  DeviceTransport(Transport& job, std::unique_ptr<Device> device, std::unique_ptr<Peers> peers, double timeout_s,
                  OwnBytes own = OwnBytes::handed_over);

  [[nodiscard]] std::string_view name() const override { return "nccl"; }
  void exchange() override;
  [[nodiscard]] std::int64_t buffer_bytes() const override { return host_bytes() + 2 * (send_.bytes() + receive_.bytes()); }

 private:
  /// Fills incoming_: bytes that each process sends here.
  void exchange_counts();
  void enqueue();
  void watch();
  /// Whether bytes for process p go through the device.
  [[nodiscard]] bool sends_to(int p) const { return p != process() || own_ == OwnBytes::through_device; }

  std::unique_ptr<Device> device_;
  double timeout_s_;
  OwnBytes own_;
  std::vector<std::uint64_t> incoming_;
  GrowingMemory send_, receive_;
  std::unique_ptr<Peers> peers_;  // ends before that memory, which waits for what is under way
  std::int64_t n_exchanges_ = 0;
};

}  // namespace moekv::kernels
