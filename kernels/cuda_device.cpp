// The CUDA runtime behind Device: one stream of its own, events for marks, errors thrown where they show.
#include "cuda_device.hpp"

#include <fmt/format.h>

#include "comm/host.hpp"
#include "core/error.hpp"
#include "core/units.hpp"
#include "cuda_check.hpp"
#include "cuda_graph.hpp"
#include "cuda_launch.hpp"

namespace moekv::kernels {
namespace {

constexpr std::string_view elsewhere = "or use backend host or count";

}  // namespace

void fail(cudaError_t code, const std::source_location& where) {
  const std::string text = fmt::format("CUDA: {}: {} (process {} on {}; {}:{} {})", cudaGetErrorName(code), cudaGetErrorString(code),
                                       local_process().index, host_name(), where.file_name(), where.line(), where.function_name());
  cudaGetLastError();  // an error that was told does not show again
  if (code == cudaErrorMemoryAllocation) throw PointFailure(text);
  if (code == cudaErrorNoDevice || code == cudaErrorInsufficientDriver || code == cudaErrorDevicesUnavailable) throw DeviceMissing(text);
  throw SystemError(text);
}

DeviceChoice choose_device() {
  int driver = 0, n_devices = 0;
  check(cudaDriverGetVersion(&driver));
  if (driver == 0)
    throw DeviceMissing(
        fmt::format("backend 'cuda': there is no NVIDIA driver on {} (libcuda.so.1); install it (R580 or newer), {}", host_name(), elsewhere));
  if (driver < CUDART_VERSION / 1000 * 1000)
    throw DeviceMissing(fmt::format("backend 'cuda': the driver on {} knows CUDA {}.{}, this program needs {}.0; update the driver, {}", host_name(),
                                    driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, elsewhere));
  const cudaError_t code = cudaGetDeviceCount(&n_devices);
  if (code != cudaSuccess || n_devices == 0) {
    cudaGetLastError();
    throw DeviceMissing(fmt::format("backend 'cuda': no usable GPU on {} ({}); look at nvidia-smi and CUDA_VISIBLE_DEVICES, {}", host_name(),
                                    cudaGetErrorString(code == cudaSuccess ? cudaErrorNoDevice : code), elsewhere));
  }
  const LocalProcess local = local_process();
  return {local.index % n_devices, n_devices, local.count};
}

CudaDevice::CudaDevice(const DeviceChoice& choice) : choice_(choice) {
  check(cudaSetDevice(choice.device));
  check(cudaGetDeviceProperties(&properties_, choice.device));
  const cudaError_t image = find_image();
  if (properties_.major < 8 || image == cudaErrorNoKernelImageForDevice) {
    cudaGetLastError();
    throw DeviceMissing(
        fmt::format("backend 'cuda': this program has no code for {} (compute capability {}.{}, 8.0 or newer is needed); configure with "
                    "-DCMAKE_CUDA_ARCHITECTURES={}{}, {}",
                    properties_.name, properties_.major, properties_.minor, properties_.major, properties_.minor, elsewhere));
  }
  check(image);
  shared_limit_ = properties_.sharedMemPerBlockOptin;
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  for (cudaEvent_t& event : events_) check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
}

CudaDevice::~CudaDevice() {
  for (cudaEvent_t event : events_) cudaEventDestroy(event);
  cudaStreamDestroy(stream_);
}

std::string CudaDevice::description() const {
  const char* shared = time_sliced() ? ", shared by several processes (time-sliced)" : "";
  int driver = 0;
  check(cudaDriverGetVersion(&driver));
  return fmt::format("{} (sm_{}{}, {} multiprocessors, {}, driver CUDA {}.{}; {} of {} visible{})", properties_.name, properties_.major,
                     properties_.minor, properties_.multiProcessorCount, format_bytes(static_cast<std::int64_t>(properties_.totalGlobalMem)),
                     driver / 1000, driver % 1000 / 10, choice_.device, choice_.n_devices, shared);
}

std::byte* CudaDevice::allocate(std::uint64_t bytes) {
  void* memory = nullptr;
  const cudaError_t code = cudaMalloc(&memory, bytes);
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    std::size_t left = 0, all = 0;
    check(cudaMemGetInfo(&left, &all));
    throw PointFailure(fmt::format("out of device memory: {} more are needed, {} of {} are free", format_bytes(static_cast<std::int64_t>(bytes)),
                                   format_bytes(static_cast<std::int64_t>(left)), format_bytes(static_cast<std::int64_t>(all))));
  }
  check(code);
  return static_cast<std::byte*>(memory);
}

std::byte* CudaDevice::allocate_pinned(std::uint64_t bytes) {
  void* memory = nullptr;
  check(cudaHostAlloc(&memory, bytes, cudaHostAllocDefault));
  return static_cast<std::byte*>(memory);
}

void CudaDevice::release(std::byte* memory) noexcept {
  cudaStreamSynchronize(stream_);
  cudaFree(memory);
}
void CudaDevice::release_pinned(std::byte* memory) noexcept {
  cudaStreamSynchronize(stream_);
  cudaFreeHost(memory);
}

void CudaDevice::copy(std::byte* to, const std::byte* from, std::uint64_t bytes) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_));
}
void CudaDevice::fill(std::byte* memory, std::uint64_t bytes, std::uint8_t value) { check(cudaMemsetAsync(memory, value, bytes, stream_)); }
void CudaDevice::mark(unsigned index) { check(cudaEventRecord(events_[index], stream_)); }
void CudaDevice::wait(unsigned index) { check(cudaEventSynchronize(events_[index])); }
bool CudaDevice::done(unsigned index) {
  const cudaError_t code = cudaEventQuery(events_[index]);
  if (code == cudaErrorNotReady) return false;
  check(code);
  return true;
}
void CudaDevice::synchronize() { check(cudaStreamSynchronize(stream_)); }

void CudaDevice::begin_capture() { CudaGraph::begin(stream_); }
std::unique_ptr<DeviceGraph> CudaDevice::end_capture() { return CudaGraph::end(stream_); }
void CudaDevice::launch(const DeviceGraph& graph) { static_cast<const CudaGraph&>(graph).launch(stream_); }

void CudaDevice::launch(const AppendLaunch& work) { launch_append(work, stream_); }
void CudaDevice::launch(const WidenLaunch& work) { launch_widen(work, stream_); }
void CudaDevice::launch(const SealLaunch& work) { launch_seal(work, stream_); }
void CudaDevice::launch(const ScoreLaunch& work) { launch_score(work, stream_); }
void CudaDevice::launch(const MergeLaunch& work) { launch_merge(work, stream_); }
void CudaDevice::launch(const SelectLaunch& work) { launch_select(work, stream_); }
void CudaDevice::launch(const MassLaunch& work) { launch_mass(work, stream_); }
void CudaDevice::launch(const GateLaunch& work) { launch_gate(work, stream_); }
void CudaDevice::launch(const GenerateLaunch& work) { launch_generate(work, stream_); }
void CudaDevice::launch(const AttendLaunch& work) {
  if (!work.on_tensor_cores) return launch_attend(work, stream_);
  if (work.latent) return launch_tensor_latent(work, stream_);
  if (work.d_k == 64) return launch_tensor_64(work, stream_);
  launch_tensor_128(work, stream_);
}

}  // namespace moekv::kernels
