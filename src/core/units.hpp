// Human-readable sizes and times for tables and messages.
#pragma once

#include <cstdint>
#include <string>

namespace moekv {

/// "1.50 GiB", "12 B".
[[nodiscard]] std::string format_bytes(std::int64_t bytes);
/// "1.23 ms", "45.0 us".
[[nodiscard]] std::string format_ns(std::int64_t ns);

}  // namespace moekv
