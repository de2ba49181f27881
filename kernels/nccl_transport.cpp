// make_nccl_transport: a communicator of one GPU for each process, its identifier handed round by the job's own transport.
#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <source_location>
#include <string>
#include <vector>

#include "agree.hpp"
#include "core/error.hpp"
#include "cuda_check.hpp"
#include "cuda_device.hpp"
#include "device_transport.hpp"
#include "nccl_api.hpp"

namespace moekv {
namespace kernels {
namespace {

constexpr double default_timeout_s = 120;

void require(ncclResult_t code, ncclComm_t comm, const std::source_location& where = std::source_location::current()) {
  if (code == ncclSuccess || code == ncclInProgress) return;
  const NcclApi& nccl = nccl_api();
  throw SystemError(
      fmt::format("NCCL: {}: {} ({}:{} {})", nccl.error_string(code), nccl.last_error(comm), where.file_name(), where.line(), where.function_name()));
}

class NcclPeers final : public Peers {
 public:
  NcclPeers(const ncclUniqueId& id, int n_processes, int process, cudaStream_t stream) : nccl_(nccl_api()), stream_(stream) {
    require(nccl_.init_rank(&comm_, n_processes, id, process), nullptr);
  }
  ~NcclPeers() override {
    if (comm_ == nullptr) return;
    if (std::uncaught_exceptions() == exceptions_at_start_) {
      nccl_.destroy(comm_);
    } else {
      nccl_.abort(comm_);  // the peers may be gone
    }
  }
  NcclPeers(const NcclPeers&) = delete;
  NcclPeers& operator=(const NcclPeers&) = delete;

  void start_group() override { require(nccl_.group_start(), comm_); }
  void send(const std::byte* memory, std::uint64_t bytes, int peer) override {
    require(nccl_.send(memory, bytes, ncclUint8, peer, comm_, stream_), comm_);
  }
  void receive(std::byte* memory, std::uint64_t bytes, int peer) override {
    require(nccl_.receive(memory, bytes, ncclUint8, peer, comm_, stream_), comm_);
  }
  void end_group() override { require(nccl_.group_end(), comm_); }
  void poll() override {
    ncclResult_t state = ncclSuccess;
    require(nccl_.async_error(comm_, &state), comm_);
    require(state, comm_);
  }
  void abort() noexcept override {
    nccl_.abort(comm_);
    comm_ = nullptr;
  }

 private:
  const NcclApi& nccl_;
  cudaStream_t stream_;
  ncclComm_t comm_ = nullptr;
  int exceptions_at_start_ = std::uncaught_exceptions();
};

/// What one process found: its GPU ("address of host"), or why it has none.
struct Finding {
  DeviceChoice choice;
  std::string gpu, missing;
};
Finding look(const Transport& job) {
  Finding found;
  try {
    (void)nccl_api();
    found.choice = choose_device();
    char address[32] = {};
    check(cudaDeviceGetPCIBusId(address, sizeof address, found.choice.device));
    found.gpu = fmt::format("{} of {}", address, job.host_name());
  } catch (const std::exception& e) {
    found.missing = fmt::format("{} (process {})", e.what(), job.process());
  }
  return found;
}

/// Collective. Throws on every process where one has no GPU or library, or two have the same GPU: nobody waits for a process that has left.
void require_own_gpus(Transport& job, const Finding& found) {
  require_all(job, found.missing);
  const auto all = job.gather(bytes_of(found.gpu));
  std::string shared;
  for (std::size_t a = 0; a < all.size() && shared.empty(); ++a) {
    for (std::size_t b = a + 1; b < all.size() && shared.empty(); ++b) {
      if (all[a] == all[b]) shared = fmt::format("processes {} and {} share GPU {}", a, b, text_of(all[a]));
    }
  }
  if (shared = first_text(job, shared); shared.empty()) return;
  throw UserError("transport: nccl", fmt::format("NCCL needs a GPU for each process, and {}", shared),
                  "use transport: mpi, or start as many processes as there are GPUs");
}

double timeout_s() {
  const char* text = std::getenv("MOEKV_NCCL_TIMEOUT_S");
  const double value = text != nullptr ? std::atof(text) : 0.0;
  return value > 0.0 ? value : default_timeout_s;
}

}  // namespace
}  // namespace kernels

std::unique_ptr<Transport> make_nccl_transport(Transport& job, OwnBytes own) {
  using namespace kernels;
  const Finding found = look(job);
  require_own_gpus(job, found);
  const NcclApi& nccl = nccl_api();
  auto device = std::make_unique<CudaDevice>(found.choice);
  ncclUniqueId id{};
  if (job.process() == 0) require(nccl.get_unique_id(&id), nullptr);
  std::vector<std::byte> bytes(sizeof id);
  std::memcpy(bytes.data(), &id, sizeof id);
  job.broadcast(bytes);
  std::memcpy(&id, bytes.data(), sizeof id);
  auto peers = std::make_unique<NcclPeers>(id, job.n_processes(), job.process(), device->stream());
  return std::make_unique<DeviceTransport>(job, std::move(device), std::move(peers), timeout_s(), own);
}

}  // namespace moekv
