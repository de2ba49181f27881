// Memory begins with a pattern that is NaN in every float format; blocks run alternately with their threads forwards and backwards.
#include "support/emulated_device.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <variant>

#include "append_block.hpp"
#include "attend_block.hpp"
#include "core/error.hpp"
#include "device_backend.hpp"
#include "merge_block.hpp"
#include "score_block.hpp"
#include "seal_block.hpp"
#include "support/emulated_block.hpp"
#include "tensor_shapes.hpp"

namespace moekv::test {

using namespace kernels;

EmulatedDevice::~EmulatedDevice() = default;

std::byte* EmulatedDevice::allocate(std::uint64_t bytes) {
  if (bytes > left_) throw PointFailure("out of emulated memory");
  left_ -= bytes;
  auto memory = std::make_unique_for_overwrite<std::byte[]>(bytes);
  std::memset(memory.get(), 0xFF, bytes);
  std::byte* at = memory.get();
  sizes_[at] = bytes;
  memory_[at] = std::move(memory);
  return at;
}

void EmulatedDevice::release(std::byte* memory) noexcept {
  run_until(enqueued_);  // as cudaFree does
  left_ += sizes_.at(memory);
  sizes_.erase(memory);
  memory_.erase(memory);
}

void EmulatedDevice::require_own(const std::byte* memory, std::uint64_t bytes) const {
  auto it = sizes_.upper_bound(memory);
  if (it == sizes_.begin()) throw std::logic_error("memory of the caller");
  --it;
  if (memory + bytes > it->first + it->second) throw std::logic_error("memory of the caller, or beyond an allocation");
}

void EmulatedDevice::enqueue(std::function<void()> work) {
  queue_.push_back(std::move(work));
  ++enqueued_;
}

void EmulatedDevice::run_until(std::uint64_t number) {
  while (done_ < number) {
    queue_.front()();
    queue_.pop_front();
    ++done_;
  }
}

void EmulatedDevice::copy(std::byte* to, const std::byte* from, std::uint64_t bytes) {
  require_own(to, bytes);
  require_own(from, bytes);
  enqueue([=] { std::memcpy(to, from, bytes); });
}

void EmulatedDevice::clear(std::byte* memory, std::uint64_t bytes) {
  require_own(memory, bytes);
  enqueue([=] { std::memset(memory, 0, bytes); });
}

template <class Body>
void EmulatedDevice::enqueue_blocks(std::uint32_t n, std::uint64_t shared_bytes, Body body) {
  if (n == 0) throw std::logic_error("a launch without blocks");
  if (shared_bytes > shared_limit_) throw std::logic_error("more shared memory than a block may have");
  enqueue([=] {
    std::vector<std::byte> memory;
    for (std::uint32_t i = 0; i < n; ++i) {
      EmulatedBlock block(i, shared_bytes, memory, i % 2 == 1);
      body(block);
    }
  });
}

void EmulatedDevice::launch(const AppendLaunch& work) {
  enqueue_blocks(work.n_items, 0, [work](EmulatedBlock& block) { append_block(block, work); });
}
void EmulatedDevice::launch(const WidenLaunch& work) {
  enqueue_blocks(work.n_items, 0, [work](EmulatedBlock& block) { widen_block(block, work); });
}
void EmulatedDevice::launch(const SealLaunch& work) {
  enqueue_blocks(work.n_items, work.shared_bytes, [work](EmulatedBlock& block) { kernels::seal_block(block, work); });
}
void EmulatedDevice::launch(const ScoreLaunch& work) {
  std::visit([&](const auto& rule) {
    if constexpr (select::needs_bounds<std::decay_t<decltype(rule)>>)
      enqueue_blocks(work.n_items, work.shared_bytes, [work, rule](EmulatedBlock& block) { score_block(block, work, rule); });
  }, work.rule);
}
void EmulatedDevice::launch(const MergeLaunch& work) {
  enqueue_blocks(work.n_rows, 0, [work](EmulatedBlock& block) { merge_block(block, work); });
}
void EmulatedDevice::launch_portable(const AttendLaunch& work) {
  enqueue_blocks(work.n_items, work.shared_bytes, [work](EmulatedBlock& block) { attend_block(block, work); });
}
void EmulatedDevice::launch_tensor(const AttendLaunch& work) {
  const auto shaped = [&]<ElementFormat element>() {
    enqueue_blocks(work.n_items, work.shared_bytes, [work](EmulatedBlock& block) {
      if (work.latent) return tensor_block<TensorLatent<element>>(block, work);
      if (work.d_k == 64) return tensor_block<Tensor64<element>>(block, work);
      tensor_block<Tensor128<element>>(block, work);
    });
  };
  if (work.q_format == ElementFormat::bf16) return shaped.operator()<ElementFormat::bf16>();
  shaped.operator()<ElementFormat::fp16>();
}

std::unique_ptr<Backend> make_emulated_backend() { return std::make_unique<DeviceBackend>(std::make_unique<EmulatedDevice>()); }

std::unique_ptr<Backend> make_test_backend(std::string_view name, int n_threads) {
  if (name == "emulated") return make_emulated_backend();
  try {
    return make_backend(name, n_threads);
  } catch (const DeviceMissing&) {
    return nullptr;
  }
}

}  // namespace moekv::test
