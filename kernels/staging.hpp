// Staging: carries the inputs of a batch to the device in one copy, and its results back to the caller's memory, through two pinned buffers in turn.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "device.hpp"
#include "graph_cache.hpp"

namespace moekv::kernels {

enum class Sides : std::uint8_t { device, pinned, both };

/// Memory that grows when asked for more and is never given back before the end: on the device, pinned on the host, or as much on both.
class GrowingMemory {
 public:
  GrowingMemory(Device& device, Sides sides) : device_(&device), sides_(sides) {}
  ~GrowingMemory();
  GrowingMemory(const GrowingMemory&) = delete;
  GrowingMemory& operator=(const GrowingMemory&) = delete;

  /// At least `bytes`. Waits for all work where it has to move; content is lost then, and new device memory is NaN in every float format.
  void need(std::uint64_t bytes);
  [[nodiscard]] std::byte* device() const { return memory_; }
  [[nodiscard]] std::byte* pinned() const { return mirror_; }
  [[nodiscard]] std::int64_t bytes() const { return static_cast<std::int64_t>(capacity_); }

 private:
  Device* device_;
  Sides sides_;
  std::byte *memory_ = nullptr, *mirror_ = nullptr;
  std::uint64_t capacity_ = 0;
};

/// begin, put ..., launch ..., bring ..., deliver ..., end, which enqueues all of it in this order. Results are in the caller's memory after
/// finish(). Who enqueues other work of his own on what was put calls send before.
class Staging {
 public:
  static constexpr std::uint64_t alignment = 256;
  explicit Staging(Device& device) : device_(&device), graphs_(device), slots_{Slot(device), Slot(device)} {}

  /// Bytes that `put` or `bring` takes for n values, rounded up as graphs want it.
  template <class T>
  [[nodiscard]] static std::uint64_t room(std::uint64_t n) {
    return n == 0 ? 0 : (rounded_up(n) * sizeof(T) + alignment - 1) / alignment * alignment;
  }
  /// The next batch puts at most `in_bytes` and brings at most `out_bytes`, both sums of room().
  void begin(std::uint64_t in_bytes, std::uint64_t out_bytes);
  /// Where n values lie for the caller to fill, and where they will lie on the device.
  template <class T>
  struct Part {
    T* host;
    T* device;
  };
  template <class T>
  [[nodiscard]] Part<T> part(std::uint64_t n) {
    const std::uint64_t at = take(in_, room<T>(n));
    return {reinterpret_cast<T*>(slot().in.pinned() + at), reinterpret_cast<T*>(slot().in.device() + at)};
  }
  template <class T>
  T* put(std::span<const T> values) {
    const Part<T> p = part<T>(values.size());
    if (!values.empty()) std::memcpy(p.host, values.data(), values.size_bytes());
    return p.device;
  }
  /// Copies what was put, now.
  void send();
  /// A launch whose inputs were put; one without blocks is left out.
  void launch(AnyLaunch work);
  /// Copies n values from device memory; they lie at the returned place when the batch is done.
  template <class T>
  const T* bring(const T* device, std::uint64_t n) {
    return reinterpret_cast<const T*>(bring_bytes(reinterpret_cast<const std::byte*>(device), n * sizeof(T)));
  }
  /// When the batch is done, n values from a place that `bring` named go to the caller's memory.
  template <class T>
  void deliver(T* to, const T* brought, std::uint64_t n) {
    if (n > 0) slot().deliveries.push_back({reinterpret_cast<std::byte*>(to), reinterpret_cast<const std::byte*>(brought), n * sizeof(T)});
  }
  void end();
  /// Waits for every batch and delivers its results.
  void finish();
  [[nodiscard]] GraphCache& graphs() { return graphs_; }
  [[nodiscard]] std::int64_t bytes() const;

 private:
  struct Delivery {
    std::byte* to;
    const std::byte* from;
    std::uint64_t bytes;
  };
  struct Slot {
    explicit Slot(Device& device) : in(device, Sides::both), out(device, Sides::pinned) {}
    GrowingMemory in, out;
    std::vector<Delivery> deliveries;
    bool busy = false;
  };

  [[nodiscard]] Slot& slot() { return slots_[current_]; }
  static std::uint64_t take(std::uint64_t& used, std::uint64_t bytes) {
    const std::uint64_t at = used;
    used += bytes;
    return at;
  }
  const std::byte* bring_bytes(const std::byte* device, std::uint64_t bytes);
  void complete(unsigned index);

  static constexpr std::uint64_t head_bytes = alignment;  // the numbers of blocks of a batch's launches come first
  Device* device_;
  GraphCache graphs_;
  std::array<Slot, 2> slots_;
  unsigned current_ = 0;
  std::uint64_t in_ = 0, out_ = 0;
  bool sent_ = false;
  DeviceBatch batch_;
  std::vector<Delivery> brings_;
};

}  // namespace moekv::kernels
