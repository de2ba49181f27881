// Messages are packed in pinned memory, copied to the device, sent with their exact sizes, and copied back; own bytes change hands.
#include "device_transport.hpp"

#include <fmt/format.h>

#include <chrono>
#include <cstring>
#include <thread>

#include "core/error.hpp"

namespace moekv::kernels {

DeviceTransport::DeviceTransport(Transport& job, std::unique_ptr<Device> device, std::unique_ptr<Peers> peers, double timeout_s)
    : job_(&job),
      device_(std::move(device)),
      peers_(std::move(peers)),
      timeout_s_(timeout_s),
      send_(*device_, Sides::both),
      receive_(*device_, Sides::both) {
  const auto n = static_cast<std::size_t>(job_->n_processes());
  outboxes_.resize(n);
  inboxes_.resize(n);
  incoming_.resize(n);
}

void DeviceTransport::exchange_counts() {
  for (int p = 0; p < n_processes(); ++p) {
    const std::uint64_t bytes = outbox(p).size();
    const auto* at = reinterpret_cast<const std::byte*>(&bytes);
    job_->outbox(p).assign(at, at + sizeof bytes);
  }
  job_->exchange();
  for (int p = 0; p < n_processes(); ++p) std::memcpy(&incoming_[static_cast<std::size_t>(p)], job_->received(p).data(), sizeof(std::uint64_t));
}

void DeviceTransport::enqueue() {
  std::uint64_t out = 0, in = 0;
  for (int p = 0; p < n_processes(); ++p) {
    if (p == process()) continue;
    out += Staging::room<std::byte>(outbox(p).size());
    in += Staging::room<std::byte>(incoming_[static_cast<std::size_t>(p)]);
  }
  send_.need(out);
  receive_.need(in);
  std::uint64_t at = 0;
  for (int p = 0; p < n_processes(); ++p) {
    if (p == process() || outbox(p).empty()) continue;
    std::memcpy(send_.pinned() + at, outbox(p).data(), outbox(p).size());
    at += Staging::room<std::byte>(outbox(p).size());
  }
  if (out > 0) device_->copy(send_.device(), send_.pinned(), out);
  peers_->start_group();
  std::uint64_t from = 0, to = 0;
  for (int p = 0; p < n_processes(); ++p) {
    if (p == process()) continue;
    const std::uint64_t n = incoming_[static_cast<std::size_t>(p)];
    if (!outbox(p).empty()) peers_->send(send_.device() + from, outbox(p).size(), p);
    if (n > 0) peers_->receive(receive_.device() + to, n, p);
    inboxes_[static_cast<std::size_t>(p)] = {receive_.pinned() + to, n};
    from += Staging::room<std::byte>(outbox(p).size());
    to += Staging::room<std::byte>(n);
  }
  peers_->end_group();
  if (in > 0) device_->copy(receive_.pinned(), receive_.device(), in);
  device_->mark(0);
}

void DeviceTransport::watch() {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  while (!device_->done(0)) {
    peers_->poll();
    if (std::chrono::duration<double>(Clock::now() - start).count() > timeout_s_) {
      std::string waiting;
      for (int p = 0; p < n_processes(); ++p) {
        const bool with = p != process() && (!outbox(p).empty() || incoming_[static_cast<std::size_t>(p)] > 0);
        if (with) waiting += fmt::format("{}{}", waiting.empty() ? "" : ", ", p);
      }
      peers_->abort();
      throw SystemError(fmt::format("NCCL: exchange {} of process {} on {} with processes {} did not end within {} s (MOEKV_NCCL_TIMEOUT_S)", n_exchanges_,
                                    process(), host_name(), waiting, timeout_s_));
    }
    std::this_thread::yield();
  }
  peers_->poll();
}

void DeviceTransport::exchange() {
  exchange_counts();
  enqueue();
  watch();
  const auto me = static_cast<std::size_t>(process());
  own_.swap(outboxes_[me]);
  inboxes_[me] = own_;
  for (auto& box : outboxes_) box.clear();
  ++n_exchanges_;
}

std::int64_t DeviceTransport::buffer_bytes() const {
  std::size_t bytes = own_.capacity();
  for (const auto& box : outboxes_) bytes += box.capacity();
  return static_cast<std::int64_t>(bytes) + 2 * (send_.bytes() + receive_.bytes()) + job_->buffer_bytes();
}

}  // namespace moekv::kernels
