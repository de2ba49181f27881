// Two slots: while the device works on one batch, the next is packed.
#include "staging.hpp"

#include <algorithm>

#include "core/error.hpp"

namespace moekv::kernels {

GrowingMemory::~GrowingMemory() {
  if (memory_ != nullptr) device_->release(memory_);
  if (mirror_ != nullptr) device_->release_pinned(mirror_);
}

void GrowingMemory::need(std::uint64_t bytes) {
  if (bytes <= capacity_) return;
  device_->synchronize();
  if (memory_ != nullptr) device_->release(memory_);
  if (mirror_ != nullptr) device_->release_pinned(mirror_);
  memory_ = mirror_ = nullptr;
  const std::uint64_t wanted = std::max(bytes, capacity_ + capacity_ / 2);
  capacity_ = 0;
  if (sides_ != Sides::pinned) memory_ = device_->allocate(wanted);
  if (sides_ != Sides::device) mirror_ = device_->allocate_pinned(wanted);
  capacity_ = wanted;
  if (memory_ != nullptr) device_->fill(memory_, wanted, 0xFF);
}

void Staging::begin(std::uint64_t in_bytes, std::uint64_t out_bytes) {
  current_ = 1 - current_;
  complete(current_);
  slot().in.need(head_bytes + in_bytes);
  slot().out.need(out_bytes);
  in_ = head_bytes;
  out_ = 0;
  sent_ = false;
  batch_.launches.clear();
  brings_.clear();
}

void Staging::send() {
  MOEKV_EXPECT(static_cast<std::int64_t>(in_) <= slot().in.bytes());
  device_->copy(slot().in.device(), slot().in.pinned(), in_);
  sent_ = true;
}

void Staging::launch(AnyLaunch any) {
  const std::size_t number = batch_.launches.size();
  MOEKV_EXPECT(!sent_ && number < head_bytes / sizeof(std::uint32_t));
  const bool empty = std::visit(
      [&](auto& work) {
        if (work.n_items > 0 && graphs_.enabled()) {
          reinterpret_cast<std::uint32_t*>(slot().in.pinned())[number] = work.n_items;
          work.count = reinterpret_cast<const std::uint32_t*>(slot().in.device()) + number;
          work.n_items = static_cast<std::uint32_t>(rounded_up(work.n_items));
        }
        return work.n_items == 0;
      },
      any);
  if (!empty) batch_.launches.push_back(any);
}

const std::byte* Staging::bring_bytes(const std::byte* device, std::uint64_t bytes) {
  std::byte* to = slot().out.pinned() + take(out_, room<std::byte>(bytes));
  MOEKV_EXPECT(static_cast<std::int64_t>(out_) <= slot().out.bytes());
  if (bytes > 0) brings_.push_back({to, device, bytes});
  return to;
}

void Staging::end() {
  MOEKV_EXPECT(static_cast<std::int64_t>(in_) <= slot().in.bytes());
  if (!sent_ && in_ > head_bytes) {
    batch_.to = slot().in.device();
    batch_.from = slot().in.pinned();
    batch_.bytes = in_;
    graphs_.run(batch_);
  }
  for (const Delivery& b : brings_) device_->copy(b.to, b.from, b.bytes);
  device_->mark(current_);
  slot().busy = true;
}

void Staging::complete(unsigned index) {
  Slot& s = slots_[index];
  if (s.busy) device_->wait(index);
  s.busy = false;
  for (const Delivery& d : s.deliveries) std::memcpy(d.to, d.from, d.bytes);
  s.deliveries.clear();
}

void Staging::finish() {
  complete(1 - current_);
  complete(current_);
}

std::int64_t Staging::bytes() const {
  std::int64_t sum = 0;
  for (const Slot& s : slots_) sum += s.in.bytes() + s.out.bytes();
  return sum;
}

}  // namespace moekv::kernels
