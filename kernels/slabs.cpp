// A slab is 8 to 16 MiB, or one item where that is more, or at least half of all items where that is less.
#include "slabs.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

namespace moekv::kernels {
namespace {

constexpr std::uint64_t slab_bytes = std::uint64_t{16} << 20;

}  // namespace

Slabs::Slabs(Device& device, std::uint64_t item_bytes, std::uint32_t max_items, Place place)
    : device_(&device),
      item_bytes_(item_bytes),
      place_(place),
      per_slab_(static_cast<std::uint32_t>(std::bit_floor(
          std::clamp<std::uint64_t>(slab_bytes / std::max<std::uint64_t>(1, item_bytes), 1, std::max<std::uint32_t>(1, max_items))))),
      shift_(static_cast<std::uint32_t>(std::countr_zero(per_slab_))) {}

Slabs::~Slabs() {
  for (std::byte* slab : slabs_) {
    if (place_ == Place::device) {
      device_->release(slab);
    } else {
      device_->release_pinned(slab);
    }
  }
}

Slabs::Slabs(Slabs&& other) noexcept
    : device_(other.device_),
      item_bytes_(other.item_bytes_),
      place_(other.place_),
      per_slab_(other.per_slab_),
      shift_(other.shift_),
      n_used_(other.n_used_),
      slabs_(std::exchange(other.slabs_, {})) {}

void Slabs::grow(std::uint32_t index) {
  while (item_bytes_ > 0 && index / per_slab_ >= slabs_.size()) {
    const std::uint64_t bytes = per_slab_ * item_bytes_;
    slabs_.reserve(slabs_.size() + 1);
    std::byte* slab = place_ == Place::device ? device_->allocate(bytes) : device_->allocate_pinned(bytes);
    slabs_.push_back(slab);
    if (place_ == Place::device) {
      device_->clear(slab, bytes);
    } else {
      std::memset(slab, 0, bytes);
    }
  }
  n_used_ = index + 1;
}

}  // namespace moekv::kernels
