// Interleaved slices: several kinds of work take turns for a few milliseconds each, so that a noisy machine disturbs all of them alike.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace moekv::bench {

/// One kind of work. `slice` does its i-th slice and returns the bytes it is worth.
struct Work {
  std::string name;
  std::function<std::size_t(std::size_t i)> slice;
  std::vector<double> gb_per_s = {};  // one value per round
};

/// `cpu` leaves out the time in which other programs had the core; it means something for one thread only.
enum class Clock : unsigned char { wall, cpu };

/// Runs `rounds` rounds after two warm-up rounds; every round times one slice of each work, in rotating order.
void run_interleaved(std::vector<Work>& works, int rounds, Clock clock);

struct Spread {
  double median, p5, p95;
};
[[nodiscard]] Spread spread(std::vector<double> values);
/// Spread of the ratios of two works, round by round.
[[nodiscard]] Spread ratio(const Work& work, const Work& base);

}  // namespace moekv::bench
