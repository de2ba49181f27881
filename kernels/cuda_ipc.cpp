// make_ipc_transport: each process tells which GPU it has and looks whether it may read the others' memory, before anybody relies on it.
#include <fmt/format.h>

#include <cstring>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "agree.hpp"
#include "core/error.hpp"
#include "cuda_check.hpp"
#include "cuda_device.hpp"
#include "ipc_transport.hpp"

namespace moekv {
namespace kernels {
namespace {

class CudaSharedMemory final : public SharedMemory {
 public:
  explicit CudaSharedMemory(CudaDevice& device) : device_(device) {}
  std::byte* allocate(std::uint64_t bytes) override { return device_.allocate(bytes); }
  void release(std::byte* memory) noexcept override { device_.release(memory); }
  Handle handle(std::byte* memory) override {
    cudaIpcMemHandle_t made{};
    static_assert(sizeof made == sizeof(Handle));
    check(cudaIpcGetMemHandle(&made, memory));
    Handle handle;
    std::memcpy(handle.data(), &made, sizeof made);
    return handle;
  }
  std::byte* open(const Handle& handle) override {
    cudaIpcMemHandle_t told{};
    std::memcpy(&told, handle.data(), sizeof told);
    void* memory = nullptr;
    check(cudaIpcOpenMemHandle(&memory, told, cudaIpcMemLazyEnablePeerAccess));
    return static_cast<std::byte*>(memory);
  }
  void close(std::byte* memory) noexcept override { cudaIpcCloseMemHandle(memory); }

 private:
  CudaDevice& device_;
};

/// What one process found: its device, the GPU's address on the bus, or why it has none.
struct Finding {
  std::unique_ptr<CudaDevice> device;
  DeviceChoice choice;
  std::string address, missing;
};
Finding look(const Transport& job) {
  Finding found;
  try {
    found.choice = choose_device();
    found.device = std::make_unique<CudaDevice>(found.choice);
    char address[32] = {};
    check(cudaDeviceGetPCIBusId(address, sizeof address, found.choice.device));
    found.address = address;
  } catch (const std::exception& e) {
    found.missing = fmt::format("{} (process {})", e.what(), job.process());
  }
  return found;
}

/// Why the device memory of this process has no handles; empty where it has.
std::string handle_trouble(CudaDevice& device) {
  try {
    CudaSharedMemory memory(device);
    std::byte* const tried = memory.allocate(1);
    (void)memory.handle(tried);
    memory.release(tried);
  } catch (const std::exception& e) {
    return e.what();
  }
  return {};
}

/// Why this process cannot read device memory of the others; empty where nothing speaks against it.
std::string obstacle(const Finding& found, const std::vector<std::string>& addresses, int process) {
  if (const std::string trouble = handle_trouble(*found.device); !trouble.empty())
    return fmt::format("GPU {} of process {} has no CUDA IPC: {}", found.address, process, trouble);
  for (std::size_t p = 0; p < addresses.size(); ++p) {
    if (addresses[p] == found.address) continue;
    int other = -1, reaches = 0;
    if (cudaDeviceGetByPCIBusId(&other, addresses[p].c_str()) != cudaSuccess) {
      cudaGetLastError();
      return fmt::format(
          "process {} does not see GPU {} of process {}: CUDA_VISIBLE_DEVICES, or a launcher that gives each process its own GPU, hides it", process,
          addresses[p], p);
    }
    if (cudaDeviceCanAccessPeer(&reaches, found.choice.device, other) != cudaSuccess || reaches == 0) {
      cudaGetLastError();
      return fmt::format("GPU {} of process {} has no peer access to GPU {} of process {}", found.address, process, addresses[p], p);
    }
  }
  return {};
}

}  // namespace
}  // namespace kernels

std::unique_ptr<Transport> make_ipc_transport(Transport& job) {
  using namespace kernels;
  require_one_node(job);
  Finding found = look(job);
  require_all(job, found.missing);
  refuse_ipc(job, obstacle(found, all_lines(job, found.address), job.process()));
  auto memory = std::make_unique<CudaSharedMemory>(*found.device);
  return tried(job, std::make_unique<IpcTransport>(job, std::move(found.device), std::move(memory)));
}

}  // namespace moekv
