// An exchange: pack and copy to the own arena, tell, copy from the arenas of the others.
#include "ipc_transport.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>

#include "agree.hpp"
#include "comm/host.hpp"
#include "core/error.hpp"

namespace moekv::kernels {
namespace {

constexpr std::uint64_t arena_step = std::uint64_t{2} << 20;  // an allocation of its own, of which nothing else is shared by the way

}  // namespace

IpcTransport::IpcTransport(Transport& job, std::unique_ptr<Device> device, std::unique_ptr<SharedMemory> memory)
    : JobTransport(job),
      device_(std::move(device)),
      memory_(std::move(memory)),
      send_(*device_, Sides::pinned),
      receive_(*device_, Sides::both),
      exceptions_at_start_(std::uncaught_exceptions()) {
  const auto n = static_cast<std::size_t>(job.n_processes());
  notices_.resize(n);
  for (auto& mappings : mappings_) mappings.resize(n);
}

IpcTransport::~IpcTransport() {
  for (const auto& mappings : mappings_) {
    for (const Mapping& mapping : mappings) {
      if (mapping.memory != nullptr) memory_->close(mapping.memory);
    }
  }
  if (std::uncaught_exceptions() != exceptions_at_start_) return;  // peers may be gone or still read: the end of the process frees
  try {
    barrier();
  } catch (...) {
    return;
  }
  for (const Arena& arena : arenas_) {
    if (arena.memory != nullptr) memory_->release(arena.memory);
  }
  for (std::byte* memory : retired_) memory_->release(memory);
}

void IpcTransport::grow(Arena& arena, std::uint64_t bytes) {
  if (bytes <= arena.bytes) return;
  if (arena.memory != nullptr) retired_.push_back(arena.memory);
  const std::uint64_t more = std::max(bytes, arena.bytes + arena.bytes / 2);
  arena.bytes = (more + arena_step - 1) / arena_step * arena_step;
  arena.memory = memory_->allocate(arena.bytes);
  arena.handle = memory_->handle(arena.memory);
  arena.generation += 1;
}

void IpcTransport::pack(Arena& arena) {
  std::uint64_t bytes = 0;
  for (int p = 0; p < n_processes(); ++p) {
    if (p != process()) bytes += Staging::room<std::byte>(outbox(p).size());
  }
  if (bytes == 0) return;
  grow(arena, bytes);
  send_.need(bytes);
  std::uint64_t at = 0;
  for (int p = 0; p < n_processes(); ++p) {
    if (p == process() || outbox(p).empty()) continue;
    std::memcpy(send_.pinned() + at, outbox(p).data(), outbox(p).size());
    at += Staging::room<std::byte>(outbox(p).size());
  }
  device_->copy(arena.memory, send_.pinned(), bytes);
  device_->mark(0);
  device_->wait(0);  // peers read as soon as they are told
}

void IpcTransport::announce(const Arena& arena) {
  std::uint64_t at = 0;
  for (int p = 0; p < n_processes(); ++p) {
    const std::uint64_t bytes = p == process() ? 0 : outbox(p).size();
    const Notice notice{at, bytes, arena.generation, arena.handle};
    const auto* from = reinterpret_cast<const std::byte*>(&notice);
    job().outbox(p).assign(from, from + sizeof notice);
    at += Staging::room<std::byte>(bytes);
  }
  job().exchange();
  for (int p = 0; p < n_processes(); ++p) std::memcpy(&notices_[static_cast<std::size_t>(p)], job().received(p).data(), sizeof(Notice));
}

std::byte* IpcTransport::map(Mapping& mapping, const Notice& notice) {
  if (mapping.generation != notice.generation) {
    if (std::byte* old = std::exchange(mapping.memory, nullptr)) memory_->close(old);
    mapping.generation = notice.generation;
    mapping.memory = memory_->open(notice.handle);
  }
  return mapping.memory;
}

void IpcTransport::pull(std::vector<Mapping>& mappings) {
  std::uint64_t bytes = 0;
  for (const Notice& notice : notices_) bytes += Staging::room<std::byte>(notice.bytes);
  receive_.need(bytes);
  std::uint64_t to = 0;
  for (int step = 1; step < n_processes(); ++step) {  // not all from the same peer at once
    const int p = (process() + step) % n_processes();
    const Notice& notice = notices_[static_cast<std::size_t>(p)];
    const std::byte* const from = map(mappings[static_cast<std::size_t>(p)], notice);
    if (notice.bytes > 0) device_->copy(receive_.device() + to, from + notice.offset, notice.bytes);
    set_received(p, {receive_.pinned() + to, notice.bytes});
    to += Staging::room<std::byte>(notice.bytes);
  }
  if (bytes == 0) return;
  device_->copy(receive_.pinned(), receive_.device(), bytes);
  device_->mark(0);
  device_->wait(0);
}

void IpcTransport::exchange() {
  const std::size_t turn = n_exchanges_ % arenas_.size();
  const std::vector<std::byte*> unmapped = std::exchange(retired_, {});
  pack(arenas_[turn]);
  announce(arenas_[turn]);
  for (std::byte* memory : unmapped) memory_->release(memory);
  pull(mappings_[turn]);
  end_exchange();
  ++n_exchanges_;
}

std::int64_t IpcTransport::buffer_bytes() const {
  return host_bytes() + send_.bytes() + 2 * receive_.bytes() + static_cast<std::int64_t>(arenas_[0].bytes + arenas_[1].bytes);
}

void refuse_ipc(Transport& job, const std::string& reason) {
  if (const std::string first = first_text(job, reason); !first.empty()) throw UserError("transport: ipc", first, "use transport: mpi");
}

void require_one_node(Transport& job) {
  const int here = local_process().count;
  refuse_ipc(job, here == job.n_processes() ? ""
                                            : fmt::format("CUDA IPC works among processes of one node, and only {} of {} run on {}", here,
                                                          job.n_processes(), job.host_name()));
}

std::unique_ptr<Transport> tried(Transport& job, std::unique_ptr<IpcTransport> transport) {
  for (int turn = 0; turn < 2; ++turn) {
    std::string trouble;
    try {
      for (int p = 0; p < job.n_processes(); ++p) transport->outbox(p).assign(1, static_cast<std::byte>(16 * turn + job.process() % 16));
      transport->exchange();
      for (int p = 0; p < job.n_processes(); ++p) {
        if (transport->received(p).front() != static_cast<std::byte>(16 * turn + p % 16))
          trouble = fmt::format("process {} read something else than process {} wrote", job.process(), p);
      }
    } catch (const std::exception& e) {
      trouble = fmt::format("process {} cannot map device memory of another: {}", job.process(), e.what());
    }
    trouble = first_text(job, trouble);
    if (!trouble.empty()) transport.reset();  // before anything unwinds: its end is collective
    refuse_ipc(job, trouble);
  }
  return transport;
}

}  // namespace moekv::kernels
