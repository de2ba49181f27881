// CudaDevice: a Device on one GPU of this host.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <memory>
#include <string>

#include "device.hpp"

namespace moekv::kernels {

/// Which GPU this process takes: its number among the processes of this host, modulo the visible devices.
struct DeviceChoice {
  int device = 0, n_devices = 0;
  int n_processes = 1;  // of this host
};
/// Throws DeviceMissing with what to do where there is no driver, an old one, or no device.
[[nodiscard]] DeviceChoice choose_device();

class CudaDevice final : public Device {
 public:
  /// Throws DeviceMissing where the device is too old or the program has no code for it.
  explicit CudaDevice(const DeviceChoice& choice);
  ~CudaDevice() override;
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  [[nodiscard]] std::string description() const override;
  [[nodiscard]] bool time_sliced() const override { return choice_.n_processes > choice_.n_devices; }
  [[nodiscard]] std::uint64_t shared_limit() const override { return shared_limit_; }
  [[nodiscard]] cudaStream_t stream() const { return stream_; }
  std::byte* allocate(std::uint64_t bytes) override;
  void release(std::byte* memory) noexcept override;
  std::byte* allocate_pinned(std::uint64_t bytes) override;
  void release_pinned(std::byte* memory) noexcept override;
  void copy(std::byte* to, const std::byte* from, std::uint64_t bytes) override;
  void fill(std::byte* memory, std::uint64_t bytes, std::uint8_t value) override;
  void mark(unsigned index) override;
  void wait(unsigned index) override;
  [[nodiscard]] bool done(unsigned index) override;
  void synchronize() override;
  void begin_capture() override;
  [[nodiscard]] std::unique_ptr<DeviceGraph> end_capture() override;
  void launch(const DeviceGraph& graph) override;
  void launch(const AppendLaunch& work) override;
  void launch(const WidenLaunch& work) override;
  void launch(const SealLaunch& work) override;
  void launch(const ScoreLaunch& work) override;
  void launch(const SelectLaunch& work) override;
  void launch(const AttendLaunch& work) override;
  void launch(const MergeLaunch& work) override;
  void launch(const MassLaunch& work) override;
  void launch(const GateLaunch& work) override;
  void launch(const GenerateLaunch& work) override;

 private:
  DeviceChoice choice_;
  cudaDeviceProp properties_{};
  std::uint64_t shared_limit_ = 0;
  cudaStream_t stream_ = nullptr;
  std::array<cudaEvent_t, n_marks> events_{};
};

}  // namespace moekv::kernels
