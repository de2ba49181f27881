// Timing and statistics of interleaved slices.
#include "slices.hpp"

#include <algorithm>
#include <ctime>

namespace moekv::bench {
namespace {

double now_ns(Clock clock) {
  timespec t{};
  clock_gettime(clock == Clock::cpu ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
}

}  // namespace

void run_interleaved(std::vector<Work>& works, int rounds, Clock clock) {
  constexpr int warm_up = 2;
  for (int round = -warm_up; round < rounds; ++round) {
    for (std::size_t turn = 0; turn < works.size(); ++turn) {
      Work& work = works[(turn + static_cast<std::size_t>(round + warm_up)) % works.size()];
      const double start = now_ns(clock);
      const std::size_t bytes = work.slice(static_cast<std::size_t>(round + warm_up));
      const double ns = now_ns(clock) - start;
      if (round >= 0) work.gb_per_s.push_back(static_cast<double>(bytes) / ns);
    }
  }
}

Spread spread(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto at = [&](double q) { return values[static_cast<std::size_t>(q * static_cast<double>(values.size() - 1) + 0.5)]; };
  return {at(0.5), at(0.05), at(0.95)};
}

Spread ratio(const Work& work, const Work& base) {
  std::vector<double> values;
  for (std::size_t i = 0; i < work.gb_per_s.size(); ++i) values.push_back(work.gb_per_s[i] / base.gb_per_s[i]);
  return spread(std::move(values));
}

}  // namespace moekv::bench
