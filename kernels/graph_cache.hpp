// GraphCache: launches batches of device work as graphs when they come back. A batch is the same as an earlier one where its copy and its launches
// are: sizes are rounded up and real numbers read from device memory, so few batches differ.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <vector>

#include "device.hpp"
#include "device/backend.hpp"

namespace moekv::kernels {

/// n rounded up, by at most a quarter above 8, so that nearby numbers become one.
[[nodiscard]] constexpr std::uint64_t rounded_up(std::uint64_t n) {
  std::uint64_t step = 1;
  while (8 * step <= n) step *= 2;
  return n <= 8 ? 8 : (n + step - 1) / step * step;
}

/// A copy to the device, then kernels.
struct DeviceBatch {
  std::byte* to = nullptr;
  const std::byte* from = nullptr;
  std::uint64_t bytes = 0;
  std::vector<AnyLaunch> launches;
  friend bool operator==(const DeviceBatch&, const DeviceBatch&) = default;
};

class GraphCache {
 public:
  static constexpr std::size_t most_graphs = 256;
  explicit GraphCache(Device& device) : device_(&device) {}

  [[nodiscard]] bool enabled() const { return enabled_; }
  void enable(bool yes) { enabled_ = yes; }
  /// Enqueues the batch: the first time piece by piece, then as a graph, unless the device makes none of it. The batch that was not used for longest
  /// is forgotten.
  void run(const DeviceBatch& batch);
  /// Forgets all batches; waits for their work.
  void clear();
  /// What `run` did since the last call.
  [[nodiscard]] BackendWork take_work();

 private:
  struct Entry {
    DeviceBatch batch;
    std::unique_ptr<DeviceGraph> graph;
    bool refused = false;
  };
  void enqueue(const DeviceBatch& batch);
  /// The entry of a batch, moved to the front; null for one that is new, and noted now.
  Entry* find(const DeviceBatch& batch);

  Device* device_;
  bool enabled_ = true;
  std::list<Entry> entries_;
  BackendWork work_;
};

}  // namespace moekv::kernels
