// RopeAngles: cosines and sines of positions, kept because every layer and every probe turns the same positions by the same angles.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "core/math.hpp"
#include "trace/kept_bytes.hpp"

namespace moekv {

/// Those of the first positions, as far as there are bytes for them, and no more than 32 MiB. `keep` must not overlap other calls.
class RopeAngles {
 public:
  explicit RopeAngles(std::shared_ptr<KeptBytes> kept) : kept_(std::move(kept)) {}
  ~RopeAngles() { kept_->give_back(bytes_); }
  RopeAngles(const RopeAngles&) = delete;
  RopeAngles& operator=(const RopeAngles&) = delete;
  /// Turns per position of each RoPE pair; before the first position.
  void set_turns(std::vector<double> turns) { turns_ = std::move(turns); }
  [[nodiscard]] std::span<const double> turns() const { return turns_; }
  /// Positions before `end` are going to be asked for.
  void keep(std::uint32_t end);
  /// Angles [n][pairs] of positions [begin, begin + n), in `room` where they are not kept; valid until `keep` or as long as `room` stays.
  [[nodiscard]] const CosSin* of(std::uint32_t begin, std::uint32_t n, std::vector<CosSin>& room) const;

 private:
  void fill(std::uint32_t begin, std::uint32_t n, CosSin* out) const;

  std::shared_ptr<KeptBytes> kept_;
  std::uint64_t bytes_ = 0;
  std::vector<double> turns_;
  std::vector<CosSin> angles_;  // [positions][pairs]
  std::uint32_t end_ = 0;       // of those positions
};

}  // namespace moekv
