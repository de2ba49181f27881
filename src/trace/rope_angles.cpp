// The table grows with the positions that are asked for.
#include "trace/rope_angles.hpp"

#include <algorithm>

#include "rules/generate.hpp"

namespace moekv {

void RopeAngles::fill(std::uint32_t begin, std::uint32_t n, CosSin* out) const {
  for (std::uint32_t t = 0; t < n; ++t) {
    for (const double turn : turns_) *out++ = generate::rope_angle(begin + t, turn);
  }
}

void RopeAngles::keep(std::uint32_t end) {
  constexpr std::uint32_t at_once = 256;          // positions
  constexpr std::uint64_t most_bytes = 32 << 20;  // a longer table would take the room of rows, which cost more to make
  if (end <= end_) return;
  const std::uint32_t more = (end - end_ + at_once - 1) / at_once * at_once;
  const std::uint64_t bytes = std::uint64_t{more} * turns_.size() * sizeof(CosSin);
  if (bytes_ + bytes > most_bytes || !kept_->take(bytes, KeptBytes::For::next_runs)) return;
  bytes_ += bytes;
  angles_.resize((std::size_t{end_} + more) * turns_.size());
  fill(end_, more, angles_.data() + end_ * turns_.size());
  end_ += more;
}

const CosSin* RopeAngles::of(std::uint32_t begin, std::uint32_t n, std::vector<CosSin>& room) const {
  if (begin + n <= end_) return angles_.data() + begin * turns_.size();
  room.resize(n * turns_.size());
  fill(begin, n, room.data());
  return room.data();
}

}  // namespace moekv
