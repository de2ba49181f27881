// Memory begins with a pattern that is NaN in every float format; blocks run alternately with their threads forwards and
// backwards, and every third kernel its blocks.
#include "support/emulated_device.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <variant>

#include "append_block.hpp"
#include "attend_block.hpp"
#include "core/error.hpp"
#include "device_backend.hpp"
#include "gate_block.hpp"
#include "generate_block.hpp"
#include "mass_block.hpp"
#include "merge_block.hpp"
#include "score_block.hpp"
#include "seal_block.hpp"
#include "select_block.hpp"
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
  if (capture_ != nullptr) std::abort();  // not in a capture
  if (stuck_) std::abort();
  run_until(enqueued_);
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
  if (capture_ != nullptr) return capture_->work.push_back(std::move(work));
  queue_.push_back(std::move(work));
  ++enqueued_;
}

void EmulatedDevice::begin_capture() {
  if (capture_ != nullptr) throw std::logic_error("a capture inside a capture");
  capture_ = std::make_unique<Graph>();
}

std::unique_ptr<DeviceGraph> EmulatedDevice::end_capture() {
  std::unique_ptr<Graph> graph = std::move(capture_);
  return refuses_ ? nullptr : std::move(graph);
}

void EmulatedDevice::launch(const DeviceGraph& graph) {
  for (const auto& work : static_cast<const Graph&>(graph).work) enqueue(work);
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

void EmulatedDevice::fill(std::byte* memory, std::uint64_t bytes, std::uint8_t value) {
  require_own(memory, bytes);
  enqueue([=] { std::memset(memory, value, bytes); });
}

template <class Work, class Body>
void EmulatedDevice::enqueue_blocks(const Work& work, std::uint64_t shared_bytes, Body body) {
  if (work.n_items == 0) throw std::logic_error("a launch without blocks");
  if (shared_bytes > shared_limit_) throw std::logic_error("more shared memory than a block may have");
  enqueue([this, work, shared_bytes, body] {
    std::vector<std::byte> memory;
    const std::uint32_t n = work.count != nullptr ? *work.count : work.n_items;
    if (n > work.n_items) throw std::logic_error("more work than blocks");
    blocks_run_[AnyLaunch(work).index()] += n;
    launches_run_ += 1;
    for (std::uint32_t number = 0; number < n; ++number) {
      const std::uint32_t i = launches_run_ % 3 != 0 ? number : n - 1 - number;
      EmulatedBlock block(i, shared_bytes, memory, i % 2 == 1);
      body(block, work);
    }
  });
}

void EmulatedDevice::launch(const AppendLaunch& work) {
  enqueue_blocks(work, 0, [](EmulatedBlock& block, const auto& w) { append_block(block, w); });
}
void EmulatedDevice::launch(const WidenLaunch& work) {
  enqueue_blocks(work, 0, [](EmulatedBlock& block, const auto& w) { widen_block(block, w); });
}
void EmulatedDevice::launch(const SealLaunch& work) {
  enqueue_blocks(work, work.shared_bytes, [](EmulatedBlock& block, const auto& w) { kernels::seal_block(block, w); });
}
void EmulatedDevice::launch(const ScoreLaunch& work) {
  std::visit(
      [&](const auto& rule) {
        if constexpr (select::needs_bounds<std::decay_t<decltype(rule)>>)
          enqueue_blocks(work, work.shared_bytes, [rule](EmulatedBlock& block, const auto& w) { score_block(block, w, rule); });
      },
      work.rule);
}
void EmulatedDevice::launch(const SelectLaunch& work) {
  enqueue_blocks(work, work.shared_bytes, [](EmulatedBlock& block, const auto& w) { select_block(block, w); });
}
void EmulatedDevice::launch(const MergeLaunch& work) {
  enqueue_blocks(work, 0, [](EmulatedBlock& block, const auto& w) { merge_block(block, w); });
}
void EmulatedDevice::launch(const MassLaunch& work) {
  enqueue_blocks(work, 0, [](EmulatedBlock& block, const auto& w) { mass_block(block, w); });
}
void EmulatedDevice::launch(const GateLaunch& work) {
  enqueue_blocks(work, work.shared_bytes, [](EmulatedBlock& block, const auto& w) { gate_block(block, w); });
}
void EmulatedDevice::launch(const GenerateLaunch& work) {
  enqueue_blocks(work, work.shared_bytes, [](EmulatedBlock& block, const auto& w) { generate_block(block, w); });
}
void EmulatedDevice::launch(const AttendLaunch& work) {
  const auto shaped = [&]<ElementFormat element>() {
    enqueue_blocks(work, work.shared_bytes, [](EmulatedBlock& block, const auto& w) {
      if (!w.on_tensor_cores) return attend_block(block, w);
      if (w.latent) return tensor_block<TensorLatent<element>>(block, w);
      if (w.d_k == 64) return tensor_block<Tensor64<element>>(block, w);
      tensor_block<Tensor128<element>>(block, w);
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
