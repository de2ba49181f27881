// EmulatedDevice: a Device that keeps its work in a queue until somebody waits for it, and then runs kernels block by block on the host. With it all
// of the CUDA backend but CUDA itself is tested where there is no GPU.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <variant>
#include <vector>

#include "device.hpp"
#include "device/backend.hpp"

namespace moekv::test {

class EmulatedDevice final : public kernels::Device {
 public:
  /// Memory that can be allocated in all; shared memory of a block.
  explicit EmulatedDevice(std::uint64_t memory = std::uint64_t{4} << 30, std::uint64_t shared_limit = 227 << 10)
      : left_(memory), shared_limit_(shared_limit) {}
  ~EmulatedDevice() override;

  [[nodiscard]] std::string description() const override { return "emulated"; }
  [[nodiscard]] std::uint64_t shared_limit() const override { return shared_limit_; }
  std::byte* allocate(std::uint64_t bytes) override;
  void release(std::byte* memory) noexcept override;
  std::byte* allocate_pinned(std::uint64_t bytes) override { return allocate(bytes); }
  void release_pinned(std::byte* memory) noexcept override { release(memory); }
  void copy(std::byte* to, const std::byte* from, std::uint64_t bytes) override;
  void fill(std::byte* memory, std::uint64_t bytes, std::uint8_t value) override;
  void mark(unsigned index) override { marks_[index] = enqueued_; }
  void wait(unsigned index) override { run_until(marks_[index]); }
  [[nodiscard]] bool done(unsigned index) override {
    if (stuck_) return false;
    run_until(marks_[index]);
    return true;
  }
  /// Memory that the test made counts as the device's until it leaves.
  void adopt(std::byte* memory, std::uint64_t bytes) { sizes_[memory] = bytes; }
  void forget(std::byte* memory) {
    run_until(enqueued_);
    sizes_.erase(memory);
  }
  /// Blocks of a kernel that were run.
  template <class Work>
  [[nodiscard]] std::uint64_t blocks_run() const {
    return blocks_run_[kernels::AnyLaunch(Work{}).index()];
  }
  /// From now on nothing is done, until `aborted`: who waits for it, as the release of memory does, would wait for ever, and aborts the program.
  void never_done() { stuck_ = true; }
  void aborted() { stuck_ = false; }
  void synchronize() override { run_until(enqueued_); }
  void begin_capture() override;
  [[nodiscard]] std::unique_ptr<kernels::DeviceGraph> end_capture() override;
  /// From now on no graph is made.
  void refuse_graphs() { refuses_ = true; }
  void launch(const kernels::DeviceGraph& graph) override;
  void launch(const kernels::AppendLaunch& work) override;
  void launch(const kernels::WidenLaunch& work) override;
  void launch(const kernels::SealLaunch& work) override;
  void launch(const kernels::ScoreLaunch& work) override;
  void launch(const kernels::SelectLaunch& work) override;
  void launch(const kernels::AttendLaunch& work) override;
  void launch(const kernels::MergeLaunch& work) override;
  void launch(const kernels::MassLaunch& work) override;
  void launch(const kernels::GateLaunch& work) override;
  void launch(const kernels::GenerateLaunch& work) override;

 private:
  struct Graph final : kernels::DeviceGraph {
    std::vector<std::function<void()>> work;
  };
  void enqueue(std::function<void()> work);
  void run_until(std::uint64_t number);
  /// The range lies in memory of this device.
  void require_own(const std::byte* memory, std::uint64_t bytes) const;
  /// A launch of n_items blocks, each handed to `body`.
  template <class Work, class Body>
  void enqueue_blocks(const Work& work, std::uint64_t shared_bytes, Body body);

  std::uint64_t left_, shared_limit_;
  std::array<std::uint64_t, std::variant_size_v<kernels::AnyLaunch>> blocks_run_{};  // by the launch's place in AnyLaunch
  std::uint64_t launches_run_ = 0;
  bool stuck_ = false, refuses_ = false;
  std::unique_ptr<Graph> capture_;
  std::map<const std::byte*, std::unique_ptr<std::byte[]>> memory_;
  std::map<const std::byte*, std::uint64_t> sizes_;
  std::deque<std::function<void()>> queue_;
  std::uint64_t enqueued_ = 0, done_ = 0;
  std::array<std::uint64_t, n_marks> marks_{};
};

/// The CUDA backend on an EmulatedDevice.
[[nodiscard]] std::unique_ptr<Backend> make_emulated_backend();
/// "host", "emulated" or "cuda". Null where there is no such device; a test skips then.
[[nodiscard]] std::unique_ptr<Backend> make_test_backend(std::string_view name, int n_threads);

}  // namespace moekv::test
