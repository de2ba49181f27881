// JobTransport: what transports through device memory have in common. Another transport of the job does all but exchanges.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "comm/transport.hpp"

namespace moekv::kernels {

class JobTransport : public Transport {
 public:
  /// `job` lives as long.
  explicit JobTransport(Transport& job)
      : job_(&job), outboxes_(static_cast<std::size_t>(job.n_processes())), inboxes_(static_cast<std::size_t>(job.n_processes())) {}

  [[nodiscard]] int n_processes() const final { return job_->n_processes(); }
  [[nodiscard]] int process() const final { return job_->process(); }
  [[nodiscard]] std::string host_name() const final { return job_->host_name(); }
  [[nodiscard]] std::vector<std::byte>& outbox(int p) final { return outboxes_[static_cast<std::size_t>(p)]; }
  [[nodiscard]] std::span<const std::byte> received(int p) const final { return inboxes_[static_cast<std::size_t>(p)]; }
  void allreduce_sum(std::span<std::int64_t> values) final { job_->allreduce_sum(values); }
  void allreduce_max(std::span<std::int64_t> values) final { job_->allreduce_max(values); }
  [[nodiscard]] std::vector<std::vector<std::byte>> gather(std::span<const std::byte> mine) final { return job_->gather(mine); }
  void broadcast(std::vector<std::byte>& bytes) final { job_->broadcast(bytes); }
  void barrier() final { job_->barrier(); }

 protected:
  [[nodiscard]] Transport& job() { return *job_; }
  /// What came from process p, until the next exchange.
  void set_received(int p, std::span<const std::byte> bytes) { inboxes_[static_cast<std::size_t>(p)] = bytes; }
  /// Own bytes change hands, unless they went another way; every outbox is empty then.
  void end_exchange(OwnBytes own = OwnBytes::handed_over) {
    const auto me = static_cast<std::size_t>(process());
    if (own == OwnBytes::handed_over) {
      own_.swap(outboxes_[me]);
      inboxes_[me] = own_;
    }
    for (auto& box : outboxes_) box.clear();
  }
  /// Of the buffers here and of the job's.
  [[nodiscard]] std::int64_t host_bytes() const {
    std::size_t bytes = own_.capacity();
    for (const auto& box : outboxes_) bytes += box.capacity();
    return static_cast<std::int64_t>(bytes) + job_->buffer_bytes();
  }

 private:
  Transport* job_;
  std::vector<std::vector<std::byte>> outboxes_;
  std::vector<std::byte> own_;
  std::vector<std::span<const std::byte>> inboxes_;
};

}  // namespace moekv::kernels
