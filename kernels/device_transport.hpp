// DeviceTransport: a Transport whose exchanges go through device memory by a library of point-to-point operations (NCCL), with a watchdog.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "comm/transport.hpp"
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

class DeviceTransport final : public Transport {
 public:
  /// `job`, which lives as long, does all but exchanges, and tells how many bytes each carries. An exchange that takes longer than `timeout_s` is aborted.
  DeviceTransport(Transport& job, std::unique_ptr<Device> device, std::unique_ptr<Peers> peers, double timeout_s);

  [[nodiscard]] std::string_view name() const override { return "nccl"; }
  [[nodiscard]] int n_processes() const override { return job_->n_processes(); }
  [[nodiscard]] int process() const override { return job_->process(); }
  [[nodiscard]] std::string host_name() const override { return job_->host_name(); }
  [[nodiscard]] std::vector<std::byte>& outbox(int p) override { return outboxes_[static_cast<std::size_t>(p)]; }
  void exchange() override;
  [[nodiscard]] std::span<const std::byte> received(int p) const override { return inboxes_[static_cast<std::size_t>(p)]; }
  void allreduce_sum(std::span<std::int64_t> values) override { job_->allreduce_sum(values); }
  void allreduce_max(std::span<std::int64_t> values) override { job_->allreduce_max(values); }
  [[nodiscard]] std::vector<std::vector<std::byte>> gather(std::span<const std::byte> mine) override { return job_->gather(mine); }
  void broadcast(std::vector<std::byte>& bytes) override { job_->broadcast(bytes); }
  void barrier() override { job_->barrier(); }
  [[nodiscard]] std::int64_t buffer_bytes() const override;

 private:
  /// Fills incoming_: bytes that each process sends here.
  void exchange_counts();
  void enqueue();
  void watch();

  Transport* job_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Peers> peers_;
  double timeout_s_;
  std::vector<std::vector<std::byte>> outboxes_;
  std::vector<std::byte> own_;
  std::vector<std::span<const std::byte>> inboxes_;
  std::vector<std::uint64_t> incoming_;
  GrowingMemory send_, receive_;
  std::int64_t n_exchanges_ = 0;
};

}  // namespace moekv::kernels
