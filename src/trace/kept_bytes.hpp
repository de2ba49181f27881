// KeptBytes: the one bound on what a process keeps of generated q, k, v, and of what it computed from them, so as not to make it again.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>

namespace moekv {

/// Shared by all that keep some. Calls must not overlap.
class KeptBytes {
 public:
  static constexpr std::uint64_t most_of_a_process = 512ULL << 20;
  /// What is to be kept: rows that requests in flight need, or what can be done without: angles, and what only the next run may ask for.
  enum class For : std::uint8_t { requests_in_flight, next_runs };
  /// Gives some back for that purpose; false where there is nothing to give.
  using Release = std::function<bool(For)>;

  explicit KeptBytes(std::uint64_t most = most_of_a_process) : most_(most) {}
  void release_by(Release release) { release_ = std::move(release); }
  /// False where there is no room, also after all was released that may be.
  [[nodiscard]] bool take(std::uint64_t n, For purpose) {
    while (used_ + n > most_) {
      if (!release_ || !release_(purpose)) return false;
    }
    used_ += n;
    return true;
  }
  void give_back(std::uint64_t n) { used_ -= n; }
  [[nodiscard]] std::uint64_t used() const { return used_; }

 private:
  std::uint64_t most_, used_ = 0;
  Release release_;
};

}  // namespace moekv
