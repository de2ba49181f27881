// What a GPU profiler sees of a run: ranges named after its phases (NVTX), and the steps that it records.
#pragma once

namespace moekv {

/// The phase that the main thread is in, as a range of the profiler's time line. Ranges nest; names are literals. Costs next to nothing where no
/// profiler is attached.
class PhaseRange {
 public:
  explicit PhaseRange(const char* name);
  ~PhaseRange();
  PhaseRange(const PhaseRange&) = delete;
  PhaseRange& operator=(const PhaseRange&) = delete;
  /// Ends this phase and begins another in its place.
  void next(const char* name);

 private:
  const char* outer_;
};

/// Name of the innermost range; "none" outside of all.
[[nodiscard]] const char* current_phase();

/// What a profiler that waits for it (nsys --capture-range=cudaProfilerApi, ncu --profile-from-start off) records lies between these two. Throws
/// DeviceMissing in a build without CUDA.
void start_capture();
void stop_capture();

/// The calls behind PhaseRange, of the build's profiler; nothing in a build without CUDA.
void push_range(const char* name) noexcept;
void pop_range() noexcept;

}  // namespace moekv
