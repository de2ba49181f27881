// Time to go is what is left over the mean speed so far.
#include "app/progress.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

namespace moekv {

std::string clock_text(double seconds) {
  const auto s = static_cast<long>(std::min(seconds, 3.6e8));
  return s >= 3600 ? fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60) : fmt::format("{}:{:02}", s / 60, s % 60);
}

void ProgressLine::show(const Progress& progress) {
  const auto now = Clock::now();
  if (now - last_ < (terminal_ ? std::chrono::milliseconds(200) : std::chrono::milliseconds(30000))) return;
  last_ = now;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double done = static_cast<double>(progress.done_tokens), total = static_cast<double>(std::max<std::uint64_t>(1, progress.total_tokens));
  const std::string eta = done > 0 ? clock_text(seconds * std::max(0.0, total - done) / done) : "?";
  std::string text = fmt::format("[{:3.0f}%] step {}  {:.0f} of {:.0f} tokens  {:.0f} tokens/s  {} left", 100.0 * done / total, progress.step, done,
                                 total, done / seconds, eta);
  if (done == total && progress.waiting_probes > 0)
    text = fmt::format("[100%] step {}  measuring the fidelity of {} queries", progress.step, progress.waiting_probes);
  fmt::print(stderr, "{}{}{}", terminal_ ? "\r\x1b[K" : "", text, terminal_ ? "" : "\n");
  std::fflush(stderr);
  drawn_ = terminal_;
}

void ProgressLine::end() {
  if (drawn_) fmt::print(stderr, "\r\x1b[K");
  drawn_ = false;
}

}  // namespace moekv
