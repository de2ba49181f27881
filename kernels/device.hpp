// Device: what the backend needs of a GPU and its runtime. The CUDA one is cuda_device.cpp; tests have one that runs the same kernels on the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "launches.hpp"

namespace moekv::kernels {

/// Noted work that can be launched again as a whole; ends before its device, when none of it is under way.
class DeviceGraph {
 public:
  virtual ~DeviceGraph() = default;
};

/// All work is done in the order of the calls, on one stream of its own. Host memory that takes part must be pinned, unless stated.
class Device {
 public:
  static constexpr unsigned n_marks = 4;
  virtual ~Device() = default;
  [[nodiscard]] virtual std::string description() const = 0;
  /// Whether other processes of the job use the device too, by turns.
  [[nodiscard]] virtual bool time_sliced() const { return false; }
  /// Shared memory that one block may have.
  [[nodiscard]] virtual std::uint64_t shared_limit() const = 0;

  /// Device memory, 256-byte aligned, of any content. Throws PointFailure where there is none left.
  virtual std::byte* allocate(std::uint64_t bytes) = 0;
  /// Waits for all work, as the one of pinned memory does: it may use the memory.
  virtual void release(std::byte* memory) noexcept = 0;
  virtual std::byte* allocate_pinned(std::uint64_t bytes) = 0;
  virtual void release_pinned(std::byte* memory) noexcept = 0;

  /// Asynchronous; the direction follows from the addresses.
  virtual void copy(std::byte* to, const std::byte* from, std::uint64_t bytes) = 0;
  virtual void fill(std::byte* memory, std::uint64_t bytes, std::uint8_t value) = 0;
  void clear(std::byte* memory, std::uint64_t bytes) { fill(memory, bytes, 0); }

  /// Marks this point of the work; waits until the work up to the newest mark of that index is done.
  virtual void mark(unsigned index) = 0;
  virtual void wait(unsigned index) = 0;
  /// Whether that work is done; does not wait.
  [[nodiscard]] virtual bool done(unsigned index) = 0;
  virtual void synchronize() = 0;

  /// Copies and launches from here to end_capture are noted, not done.
  virtual void begin_capture() = 0;
  /// What was noted; null where the device makes no graph of it.
  virtual std::unique_ptr<DeviceGraph> end_capture() = 0;
  virtual void launch(const DeviceGraph& graph) = 0;

  virtual void launch(const AppendLaunch& work) = 0;
  virtual void launch(const WidenLaunch& work) = 0;
  virtual void launch(const SealLaunch& work) = 0;
  virtual void launch(const ScoreLaunch& work) = 0;
  virtual void launch(const SelectLaunch& work) = 0;
  virtual void launch(const AttendLaunch& work) = 0;
  virtual void launch(const MergeLaunch& work) = 0;
  virtual void launch(const MassLaunch& work) = 0;
  virtual void launch(const GateLaunch& work) = 0;
  virtual void launch(const GenerateLaunch& work) = 0;
};

}  // namespace moekv::kernels
