// Sums of the traffic records of one window.
#include "results/traffic_matrix.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "core/error.hpp"
#include "engine/summary_list.hpp"

namespace moekv {
namespace {

constexpr std::int64_t most_ranks = 8192;  // beyond it the matrix takes half a gibibyte

}  // namespace

std::int64_t TrafficMatrix::largest() const { return *std::max_element(bytes.begin(), bytes.end()); }

std::string TrafficMatrix::nccl_tests_csv() const {
  std::string text;
  const auto most = static_cast<double>(largest());
  for (std::size_t i = 0; i < bytes.size(); ++i)
    text += fmt::format("{:.9g}{}", static_cast<double>(bytes[i]) / most, (i + 1) % n_ranks == 0 ? "\n" : ",");
  return text;
}

TrafficMatrix traffic_matrix(std::span<const TrafficRecord> traffic, std::optional<std::int64_t> step, const std::string& path) {
  TrafficMatrix out;
  std::map<std::int64_t, std::int64_t> windows;  // first step to bytes between ranks
  for (const TrafficRecord& r : traffic) {
    if (std::min(r.source, r.destination) < 0 || std::max(r.source, r.destination) >= most_ranks)
      throw UserError(path, fmt::format("has bytes from rank {} to rank {}", r.source, r.destination),
                      fmt::format("a matrix has ranks 0 to {}", most_ranks - 1));
    windows[r.first_step] += r.source == r.destination ? 0 : all_bytes(r);
    out.n_ranks = std::max(out.n_ranks, static_cast<std::size_t>(std::max(r.source, r.destination)) + 1);
  }
  auto window = std::max_element(windows.begin(), windows.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  if (step) {
    window = windows.upper_bound(*step);
    if (window == windows.begin())
      throw UserError(path, fmt::format("no window with traffic holds step {}", *step), "leave --window out for the busiest one");
    --window;
  }
  if (window == windows.end() || window->second == 0)
    throw UserError(path, "nothing was sent from rank to rank", "choose a run with several ranks and another layout than local");
  out.first_step = window->first;
  out.bytes.assign(out.n_ranks * out.n_ranks, 0);
  for (const TrafficRecord& r : traffic) {
    if (r.first_step == out.first_step && r.source != r.destination)
      out.bytes[static_cast<std::size_t>(r.source) * out.n_ranks + static_cast<std::size_t>(r.destination)] += all_bytes(r);
  }
  return out;
}

}  // namespace moekv
