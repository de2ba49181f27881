// Messages are packed in pinned memory, copied to the device, sent with their exact sizes, and copied back; own bytes change hands.
#include "device_transport.hpp"

#include <fmt/format.h>

#include <chrono>
#include <cstring>
#include <thread>

#include "core/error.hpp"
#include "device/profile.hpp"

namespace moekv::kernels {

DeviceTransport::DeviceTransport(Transport& job, std::unique_ptr<Device> device, std::unique_ptr<Peers> peers, double timeout_s, OwnBytes own)
    : JobTransport(job),
      device_(std::move(device)),
      timeout_s_(timeout_s),
      own_(own),
      send_(*device_, Sides::both),
      receive_(*device_, Sides::both),
      peers_(std::move(peers)) {
  incoming_.resize(static_cast<std::size_t>(job.n_processes()));
}

void DeviceTransport::exchange_counts() {
  for (int p = 0; p < n_processes(); ++p) {
    const std::uint64_t bytes = outbox(p).size();
    const auto* at = reinterpret_cast<const std::byte*>(&bytes);
    job().outbox(p).assign(at, at + sizeof bytes);
  }
  job().exchange();
  for (int p = 0; p < n_processes(); ++p) std::memcpy(&incoming_[static_cast<std::size_t>(p)], job().received(p).data(), sizeof(std::uint64_t));
}

void DeviceTransport::enqueue() {
  std::uint64_t out = 0, in = 0;
  for (int p = 0; p < n_processes(); ++p) {
    if (!sends_to(p)) continue;
    out += Staging::room<std::byte>(outbox(p).size());
    in += Staging::room<std::byte>(incoming_[static_cast<std::size_t>(p)]);
  }
  send_.need(out);
  receive_.need(in);
  std::uint64_t at = 0;
  for (int p = 0; p < n_processes(); ++p) {
    if (!sends_to(p) || outbox(p).empty()) continue;
    std::memcpy(send_.pinned() + at, outbox(p).data(), outbox(p).size());
    at += Staging::room<std::byte>(outbox(p).size());
  }
  if (out > 0) device_->copy(send_.device(), send_.pinned(), out);
  peers_->start_group();
  std::uint64_t from = 0, to = 0;
  for (int p = 0; p < n_processes(); ++p) {
    if (!sends_to(p)) continue;
    const std::uint64_t n = incoming_[static_cast<std::size_t>(p)];
    if (!outbox(p).empty()) peers_->send(send_.device() + from, outbox(p).size(), p);
    if (n > 0) peers_->receive(receive_.device() + to, n, p);
    set_received(p, {receive_.pinned() + to, n});
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
        const bool with = sends_to(p) && (!outbox(p).empty() || incoming_[static_cast<std::size_t>(p)] > 0);
        if (with) waiting += fmt::format("{}{}", waiting.empty() ? "" : ", ", p);
      }
      peers_->abort();
      throw SystemError(
          fmt::format("NCCL: exchange {} (phase {}) of process {} on {} with processes {} did not end within {} s (MOEKV_NCCL_TIMEOUT_S)",
                      n_exchanges_, current_phase(), process(), host_name(), waiting, timeout_s_));
    }
    std::this_thread::yield();
  }
  peers_->poll();
}

void DeviceTransport::exchange() {
  exchange_counts();
  enqueue();
  watch();
  end_exchange(own_);
  ++n_exchanges_;
}

}  // namespace moekv::kernels
