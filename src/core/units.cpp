// Sizes, times and rates as text; see units.hpp.
#include "core/units.hpp"

#include <fmt/format.h>

namespace moekv {

std::string format_bytes(std::int64_t bytes) {
  constexpr const char* names[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024.0 && unit < 4) {
    value /= 1024.0;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.2f} {}", value, names[unit]);
}

std::string format_ns(std::int64_t ns) {
  const auto value = static_cast<double>(ns);
  if (ns < 1000) return fmt::format("{} ns", ns);
  if (ns < 1000000) return fmt::format("{:.2f} us", value * 1e-3);
  if (ns < 1000000000) return fmt::format("{:.2f} ms", value * 1e-6);
  return fmt::format("{:.2f} s", value * 1e-9);
}

}  // namespace moekv
