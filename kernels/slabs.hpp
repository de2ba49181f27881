// Slabs: equal items of device (or pinned) memory, taken a few megabytes at a time, so that addresses stay valid while a pool grows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "device.hpp"

namespace moekv::kernels {

enum class Place : std::uint8_t { device, pinned };

class Slabs {
 public:
  /// At most `max_items` items. Items of 0 bytes take no memory.
  Slabs(Device& device, std::uint64_t item_bytes, std::uint32_t max_items, Place place);
  ~Slabs();
  Slabs(Slabs&& other) noexcept;
  Slabs& operator=(Slabs&&) = delete;
  Slabs(const Slabs&) = delete;
  Slabs& operator=(const Slabs&) = delete;

  /// Makes items 0..index usable; new ones are zero. Throws PointFailure where there is no memory left.
  void use(std::uint32_t index) {
    if (index >= n_used_) grow(index);
  }
  [[nodiscard]] std::byte* at(std::uint32_t index) const { return slabs_[index >> shift_] + (index & (per_slab_ - 1)) * item_bytes_; }
  [[nodiscard]] std::int64_t used_bytes() const { return static_cast<std::int64_t>(n_used_ * item_bytes_); }
  [[nodiscard]] std::int64_t reserved_bytes() const { return static_cast<std::int64_t>(slabs_.size() * per_slab_ * item_bytes_); }

 private:
  void grow(std::uint32_t index);

  Device* device_;
  std::uint64_t item_bytes_;
  Place place_;
  std::uint32_t per_slab_, shift_;  // items of a slab, a power of two, and its logarithm
  std::uint32_t n_used_ = 0;
  std::vector<std::byte*> slabs_;
};

}  // namespace moekv::kernels
